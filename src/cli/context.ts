import type { Command } from "commander";
import type { Topology } from "../../regions/topology.ts";
import type { Clock, RandomSource } from "../clock.ts";
import type { Environment } from "../config.ts";
import type { ExitCode } from "../errors.ts";
import type { Output, TextStream } from "./output.ts";
import type { ClusterServices } from "./services.ts";

/** The world outside, as the composition root hands it in; tests hand in another. */
export interface CliWorld {
  readonly stdout: TextStream;
  readonly stderr: TextStream;
  readonly env: Environment;
  readonly cwd: string;
  readonly clock: Clock;
  readonly random: RandomSource;
  /** Installs the handlers of SIGINT and SIGTERM when first called: a command that never asks dies of them at once. */
  readonly interrupted: () => AbortSignal;
  /** Asks a yes-or-no question; null where nobody is there to answer. */
  readonly confirm: ((question: string) => Promise<boolean>) | null;
  readonly services: ClusterServices;
}

/** The options that every command has. */
export interface GlobalOptions {
  readonly config?: string;
  readonly json: boolean;
  readonly debug: boolean;
}

/** What a command works with. */
export interface CliContext extends CliWorld {
  readonly output: Output;
  /** Known once the command line is parsed, that is, in a command's action. */
  readonly globals: GlobalOptions;
  /** The validated configuration: `--config`, else found as `loadConfig` says. Throws OperatorError. */
  readonly loadTopology: () => Promise<Topology>;
  /** What the process ends with if the command does not throw; 0 unless set. */
  exitCode: ExitCode;
}

/** Adds one command to the program. Each command file exports one. */
export type RegisterCommand = (program: Command, context: CliContext) => void;

/** Headings of `coregent --help`, in the order of a cluster's life. */
export const commandGroups = {
  try: "Try it:",
  setUp: "Set up a cluster:",
  run: "Run it:",
  prove: "Prove and mend:",
} as const;
