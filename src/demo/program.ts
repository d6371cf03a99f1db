import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import process from "node:process";
import { fileURLToPath } from "node:url";

/** The program itself: as sources, which Node runs as they are, or compiled. */
const programFile = (): string => {
  const source = fileURLToPath(new URL("../main.ts", import.meta.url));
  return existsSync(source) ? source : fileURLToPath(new URL("../main.js", import.meta.url));
};

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs one of our own commands as a user would. Ended when the signal is aborted. */
export const runCommand = (
  args: readonly string[],
  options: { readonly color: boolean; readonly signal: AbortSignal },
): Promise<CommandResult> =>
  new Promise((resolve, reject) => {
    const { NO_COLOR: _, ...env } = process.env;
    const child = spawn(process.execPath, [programFile(), ...args], {
      stdio: ["ignore", "pipe", "pipe"],
      signal: options.signal,
      env: { ...env, NODE_NO_WARNINGS: "1", ...(options.color ? { FORCE_COLOR: "1" } : { NO_COLOR: "1" }) },
    });
    const output = { stdout: "", stderr: "" };
    for (const name of ["stdout", "stderr"] as const) {
      child[name].setEncoding("utf8").on("data", (text: string) => {
        output[name] += text;
      });
    }
    child.once("error", reject);
    child.once("close", (code) => resolve({ code: code ?? 1, ...output }));
  });
