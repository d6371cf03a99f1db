import { Command, CommanderError, type Help } from "commander";
import { configLoader } from "../config.ts";
import { exitCodes, type ExitCode } from "../errors.ts";
import { version } from "../version.ts";
import { commandGroups, type CliContext, type CliWorld, type RegisterCommand } from "./context.ts";
import { errorJson, errorText } from "./error-report.ts";
import { explainError } from "./explain-error.ts";
import { createOutput, OutputClosed, type Output } from "./output.ts";

const summary =
  "Coregent makes several PostgreSQL masters, one in each region, behave as one database\n" +
  "that is always writable.";

const examples = `
Examples:
  coregent demo                        three regions on this machine, and a tour of what they do
  coregent check                       what is missing before \`init\`, each with its remedy
  coregent init                        prepare every region in coregent.yaml; may be run again
  coregent agent --region moldova      run one region's agent
  coregent verify --json | jq .        prove that all regions hold the same

The configuration is --config FILE, else coregent.yaml here, else COREGENT_CONFIG, else the demo's
(COREGENT_DATA or .coregent).

Exit codes: 0 ok, 1 error, 2 called wrongly, 3 degraded, 4 regions differ.`;

interface Flags {
  config?: string;
  json: boolean;
  debug: boolean;
}

/**
 * Runs one command line, without the program's own name.
 * @returns what the process must end with. Never rejects: every error is reported and becomes an exit code.
 */
export const runCli = async (
  argv: readonly string[],
  world: CliWorld,
  commands: readonly RegisterCommand[],
): Promise<ExitCode> => {
  // Until the command line is parsed, and where it cannot be, this guess decides how an error is shown.
  const flags: Flags = { json: argv.includes("--json"), debug: argv.includes("--debug") };
  const output = createOutput({ ...world, flags });
  const context = createContext(world, output, flags);
  try {
    const program = buildProgram(context, flags, commands);
    await program.parseAsync([...argv], { from: "user" });
    return context.exitCode;
  } catch (error) {
    return reportError(error, output, flags);
  }
};

const createContext = (world: CliWorld, output: Output, flags: Flags): CliContext => {
  // Made at the first call: the command line is parsed by then.
  let load: CliContext["loadTopology"] | null = null;
  return {
    ...world,
    output,
    globals: flags,
    loadTopology: () => (load ??= configLoader({ file: flags.config, env: world.env, cwd: world.cwd }))(),
    exitCode: exitCodes.ok,
  };
};

const buildProgram = (context: CliContext, flags: Flags, commands: readonly RegisterCommand[]): Command => {
  const program = new Command("coregent");
  program
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void context.stdout.write(text),
      writeErr: (text) => void context.stderr.write(text),
      outputError: () => undefined,
      getOutHasColors: () => context.output.color.isColorSupported,
      getErrHasColors: () => context.output.noteColor.isColorSupported,
      getOutHelpWidth: () => Math.min(context.output.columns, 100),
      getErrHelpWidth: () => Math.min(context.stderr.columns ?? 100, 100),
    })
    .configureHelp({ ...helpStyle(context), showGlobalOptions: true })
    .description(summary)
    .usage("COMMAND [options]")
    .version(version, "-V, --version", "print the version")
    .helpOption("-h, --help", "print this help, or a command's")
    .helpCommand("help [command]", "print a command's help")
    .commandsGroup("Other:")
    .option("-c, --config <file>", "the cluster's configuration")
    .option("--json", "data as JSON on standard output, errors as JSON on standard error")
    .option("--debug", "with an error, where in the program it happened")
    .addHelpText("after", examples)
    .hook("preAction", () => {
      const given = program.opts<Partial<Flags>>();
      Object.assign(flags, { json: given.json === true, debug: given.debug === true, config: given.config });
    });
  for (const register of commands) {
    register(program, context);
  }
  return program;
};

const helpStyle = ({ output: { color } }: CliContext): Partial<Help> => ({
  styleTitle: (text) => color.bold(text),
  styleCommandText: (text) => color.cyan(text),
  styleSubcommandText: (text) => color.cyan(text),
  styleOptionText: (text) => color.cyan(text),
  subcommandTerm: (command) => command.name(),
  visibleCommands: (command) => inOrder(command.commands),
});

/** By the groups' order, whatever the order of registration. */
const inOrder = (commands: readonly Command[]): Command[] => {
  const groups: readonly string[] = Object.values(commandGroups);
  const rank = (command: Command): number => {
    const index = groups.indexOf(command.helpGroup());
    return index < 0 ? groups.length : index;
  };
  return commands.toSorted((a, b) => rank(a) - rank(b));
};

const reportError = (error: unknown, output: Output, flags: Flags): ExitCode => {
  if (error instanceof CommanderError && isHelp(error)) {
    return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage;
  }
  if (error instanceof OutputClosed) {
    return exitCodes.ok;
  }
  const operatorError = explainError(error);
  output.note(
    flags.json
      ? errorJson(operatorError, flags.debug)
      : errorText(operatorError, output.noteColor, flags.debug),
  );
  return operatorError.exitCode;
};

/** Commander reports help and the version, which it has printed by then, as errors too. */
const isHelp = (error: CommanderError): boolean =>
  ["commander.help", "commander.helpDisplayed", "commander.version"].includes(error.code);
