import { resolve } from "node:path";
import { type Command, InvalidArgumentError } from "commander";
import { defaultDataFolder } from "../config.ts";
import { DemoFolder } from "../demo/folder.ts";
import { maxSeed } from "../demo/random.ts";
import { runDemo } from "../demo/run.ts";
import { type Skew, skewClock } from "../demo/skew.ts";
import { type CliContext, commandGroups, type RegisterCommand } from "./context.ts";
import { durationMs } from "./duration.ts";

interface DemoFlags {
  once?: true;
  purge?: true;
  data?: string;
  portBase?: number;
  seed?: number;
}

/** `coregent demo`: three regions on this machine. With --once it ends after the tour, with the exit code of verify. */
export const registerDemo: RegisterCommand = (program, context) => {
  const demo = program
    .command("demo")
    .helpGroup(commandGroups.try)
    .description("three regions on this machine, and a tour of what they do; then they keep running")
    .option("--once", "end after the tour, with the exit code of verify")
    .option("--purge", "remove the data of an earlier demo, and end")
    .option("--data <dir>", `where the data are kept (default: COREGENT_DATA, else ${defaultDataFolder})`)
    .option(
      "--port-base <n>",
      "PostgreSQL at n, n+1, n+2, agents at n+10 ...; default: free ports",
      parsePort,
    )
    .option(
      "--seed <n>",
      "seed of the data and the network; default: the last one, else by chance",
      parseSeed,
    )
    .action(async (flags: DemoFlags) => {
      const dataDir = dataFolder(context, flags);
      if (flags.purge === true) {
        const folder = await DemoFolder.open(dataDir);
        await folder.purge();
        context.output.result({ purged: dataDir }, () => `removed ${dataDir}`);
        return;
      }
      context.exitCode = await runDemo(context, {
        dataDir,
        once: flags.once === true,
        ...(flags.portBase !== undefined && { portBase: flags.portBase }),
        ...(flags.seed !== undefined && { seed: flags.seed }),
      });
    });
  demo
    .command("skew <region=offset>")
    .description("move a region's clock in the running demo: new-zealand=1h, moldova=-5s, moldova=0")
    .addHelpText(
      "after",
      "\nThe offset is from the true time, not from what was set before; 0 sets the clock right, and so does a new start.\n" +
        "Beyond a second status warns of it; beyond a minute the region's endpoint takes no writes.",
    )
    .action(async (argument: string, _flags: object, command: Command) => {
      const skew = parseSkew(argument);
      await skewClock(dataFolder(context, command.optsWithGlobals<DemoFlags>()), skew, context.interrupted());
      context.output.result(skew, () => skewText(skew));
    });
};

const dataFolder = ({ env, cwd }: CliContext, flags: DemoFlags): string => {
  const named = flags.data ?? env["COREGENT_DATA"];
  return resolve(cwd, named === undefined || named === "" ? defaultDataFolder : named);
};

const maxSkewMs = 365 * 24 * 3_600_000;

const parseSkew = (text: string): Skew => {
  const [, region = "", sign = "", offset = ""] = /^([^=]+)=([+-]?)(.+)$/.exec(text) ?? [];
  const ms = offset === "0" ? 0 : durationMs(offset);
  if (ms === null || ms > maxSkewMs) {
    throw new InvalidArgumentError("It is REGION=OFFSET, such as new-zealand=1h, moldova=-5s or moldova=0.");
  }
  return { region, ms: sign === "-" && ms > 0 ? -ms : ms };
};

const skewText = ({ region, ms }: Skew): string =>
  ms === 0
    ? `the clock of ${region} is right again`
    : `the clock of ${region} is ${Math.abs(ms) / 1000} s ${ms > 0 ? "ahead" : "behind"}; to set it right: coregent demo skew ${region}=0`;

const wholeNumber = (text: string, low: number, high: number): number => {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < low || value > high) {
    throw new InvalidArgumentError(`It is a whole number from ${low} to ${high}.`);
  }
  return value;
};

const parsePort = (text: string): number => wholeNumber(text, 1024, 65_535 - 12);
const parseSeed = (text: string): number => wholeNumber(text, 0, maxSeed);
