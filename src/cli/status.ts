import { InvalidArgumentError } from "commander";
import { exitCodes, OperatorError, type ExitCode } from "../errors.ts";
import { commandGroups, type CliContext, type RegisterCommand } from "./context.ts";
import { judge, type StatusReport } from "./status-judge.ts";
import { readRegions } from "./status-read.ts";
import { statusText } from "./status-render.ts";

const connectTimeoutMs = 3000;

interface StatusOptions {
  watch?: true;
  interval: number;
}

/** `coregent status`: 0 if all is well, 3 if anything is not, 1 if no region could be read. */
export const registerStatus: RegisterCommand = (program, context) => {
  program
    .command("status")
    .helpGroup(commandGroups.run)
    .description("a verdict, the regions, the links and their lag, and what is not well, with its remedy")
    .option("-w, --watch", "again and again; redrawn on a terminal, else one block each time")
    .option("-i, --interval <seconds>", "with --watch, how often", parseSeconds, 2)
    .addHelpText(
      "after",
      "\nReads every region's database, and the agents' endpoints where they can be reached.\n" +
        "Ends with 0 if all is well, 3 if there is a warning or worse, 1 if no region could be read.",
    )
    .action(async (options: StatusOptions) => {
      context.exitCode = options.watch === true ? await watch(context, options) : await once(context);
    });
};

const parseSeconds = (text: string): number => {
  const seconds = Number(text);
  if (!(seconds >= 0.1 && seconds <= 3600)) {
    throw new InvalidArgumentError("It is a number of seconds from 0.1 to 3600.");
  }
  return seconds;
};

const read = async (context: CliContext): Promise<StatusReport> => {
  // Anew each time: a watch sees a region that was added to the file.
  const topology = await context.loadTopology();
  const now = (): number => context.clock.now();
  const token = context.env["COREGENT_TOKEN"];
  return judge(topology, await readRegions(topology, { connectTimeoutMs, now, token }), now());
};

export const exitCodeOf = (report: StatusReport): ExitCode => {
  if (report.regions.every((region) => "error" in region.database)) {
    return exitCodes.error;
  }
  return report.severity === "ok" ? exitCodes.ok : exitCodes.degraded;
};

const once = async (context: CliContext): Promise<ExitCode> => {
  const report = await read(context);
  context.output.result(report, () => statusText(report, context.output.color));
  return exitCodeOf(report);
};

/** Until Ctrl-C; then with the code of the last report. */
const watch = async (context: CliContext, options: StatusOptions): Promise<ExitCode> => {
  const { output, clock } = context;
  const signal = context.interrupted();
  const redraw = output.interactive && !output.json;
  let code: ExitCode = exitCodes.ok;
  if (redraw) {
    context.stdout.write("\u001b[2J");
  }
  while (!signal.aborted) {
    const report = await read(context);
    code = exitCodeOf(report);
    if (redraw) {
      context.stdout.write(frame(`${report.at}\n\n${statusText(report, output.color)}`, rowsOf(context)));
    } else {
      output.result(report, () => `${report.at}\n${statusText(report, output.color)}\n`);
    }
    await clock.sleep(options.interval * 1000, signal).catch((error: unknown) => {
      if (!(error instanceof OperatorError) && !signal.aborted) {
        throw error;
      }
    });
  }
  return code;
};

const rowsOf = (context: CliContext): number => (context.stdout as { rows?: number }).rows ?? 50;

/** Overwrites the old frame line by line, which does not flicker as clearing does; never longer than the screen. */
const frame = (text: string, rows: number): string => {
  const lines = text.split("\n").slice(0, Math.max(5, rows - 1));
  return `\u001b[H${lines.map((line) => `${line}\u001b[K\n`).join("")}\u001b[J`;
};
