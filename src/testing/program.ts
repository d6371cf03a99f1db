import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import process from "node:process";
import { fileURLToPath } from "node:url";

/** The program beside us: as sources, which Node runs itself, or compiled. */
const mainFile = (): string => {
  const [source, compiled] = ["../main.ts", "../main.js"].map((path) =>
    fileURLToPath(new URL(path, import.meta.url)),
  );
  return source !== undefined && existsSync(source) ? source : (compiled ?? "");
};

/** A Node that can run it: ours, unless the tests were started by an old one and the package `node` is there. */
const nodeFile = (): string => {
  if (Number(process.versions.node.split(".")[0]) >= 24) return process.execPath;
  try {
    return createRequire(import.meta.url).resolve("node/bin/node");
  } catch {
    return process.execPath;
  }
};

/** What to spawn for `coregent` with these arguments, and the variables that it needs over ours. */
export const coregentCommand = (
  args: readonly string[],
): { readonly file: string; readonly args: readonly string[]; readonly env: NodeJS.ProcessEnv } => ({
  file: nodeFile(),
  args: [mainFile(), ...args],
  env: { ...process.env, NO_COLOR: "1", NODE_NO_WARNINGS: "1" },
});

export interface CommandResult {
  /** 0 ok, 1 error, 2 usage, 3 degraded, 4 diverged; null: ended by a signal. */
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command to its end; after `timeoutMs` it is ended by SIGKILL. */
export const runCoregent = (args: readonly string[], options: RunOptions): Promise<CommandResult> =>
  runProgram(coregentCommand(args), options);

export interface RunOptions {
  /** Default: where we are. */
  readonly cwd?: string;
  readonly timeoutMs: number;
}

/** Runs a program to its end; after `timeoutMs` it is ended by SIGKILL. Rejects if it cannot be started. */
export const runProgram = (
  program: { readonly file: string; readonly args: readonly string[]; readonly env: NodeJS.ProcessEnv },
  options: RunOptions,
): Promise<CommandResult> =>
  new Promise((resolve, reject) => {
    const child = spawn(program.file, program.args, {
      cwd: options.cwd,
      env: program.env,
      stdio: ["ignore", "pipe", "pipe"],
      timeout: options.timeoutMs,
      killSignal: "SIGKILL",
    });
    const said = { stdout: "", stderr: "" };
    for (const name of ["stdout", "stderr"] as const) {
      child[name].setEncoding("utf8").on("data", (text: string) => {
        said[name] += text;
      });
    }
    child.once("error", reject);
    child.once("close", (code) => resolve({ code, ...said }));
  });
