import { execFileSync } from "node:child_process";
import { readdirSync } from "node:fs";
import process from "node:process";
import { commandLine, processStart, signal, waitUntil } from "../embedded/processes.ts";

export interface ProcessRecord {
  readonly pid: number;
  /** Tells the process from a later one of the same pid; null: it has ended already. */
  readonly start: string | null;
}

/**
 * Agents that run with a configuration of this folder. Found by their command line, as a demo that is killed in the
 * very moment in which it starts one leaves no record of it.
 */
export const agentsOf = (agentsFolder: string): ProcessRecord[] =>
  allProcesses()
    .filter(({ command }) => / agent /.test(command) && command.includes(`--config ${agentsFolder}/`))
    .map(({ pid }) => ({ pid, start: processStart(pid) }));

const allProcesses = (): { readonly pid: number; readonly command: string }[] => {
  if (process.platform === "linux") {
    return readdirSync("/proc")
      .filter((name) => /^\d+$/.test(name))
      .map((name) => ({ pid: Number(name), command: commandLine(Number(name)) ?? "" }));
  }
  const rows = execFileSync("ps", ["-axwwo", "pid=,command="], { encoding: "utf8" }).split("\n");
  return rows.flatMap((row) => {
    const [, pid, command] = /^\s*(\d+)\s+(.*)$/.exec(row) ?? [];
    return pid === undefined || command === undefined ? [] : [{ pid: Number(pid), command }];
  });
};

/**
 * SIGQUIT, on which PostgreSQL ends at once and recovers at its next start, and an agent's merges are safe to repeat;
 * then SIGKILL.
 */
export const endAll = async (records: readonly ProcessRecord[]): Promise<void> => {
  const lives = ({ pid, start }: ProcessRecord): boolean => start !== null && processStart(pid) === start;
  for (const name of ["SIGQUIT", "SIGKILL"] as const) {
    for (const record of records.filter(lives)) {
      signal(record.pid, name);
    }
    if (await waitUntil(() => !records.some(lives), 10_000)) {
      return;
    }
  }
  throw new Error(`processes ${records.map(({ pid }) => pid).join(", ")} of an earlier demo do not end`);
};
