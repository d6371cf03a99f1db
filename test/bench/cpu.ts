import { readFileSync } from "node:fs";
import { childrenOf } from "../../src/embedded/processes.ts";

/** CPU seconds from one moment to another. */
export interface CpuUse {
  /** The source server: walsender and whatever else it does. */
  readonly source: number;
  /** The agent's process; 0 for native replication, which works inside the target. */
  readonly agent: number;
  readonly target: number;
}

export const cpuSpent = (before: CpuUse, after: CpuUse): CpuUse => ({
  source: after.source - before.source,
  agent: after.agent - before.agent,
  target: after.target - before.target,
});

/** Of Linux on all common machines: what /proc counts in. */
const ticksPerSecond = 100;

/** User and system time of a process, and of its children that have ended, in seconds; 0 if it is gone. */
const times = (pid: number): { readonly own: number; readonly endedChildren: number } => {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = text
      .slice(text.lastIndexOf(")") + 2)
      .split(" ")
      .map(Number);
    const [user = 0, system = 0, childUser = 0, childSystem = 0] = fields.slice(11, 15);
    return {
      own: (user + system) / ticksPerSecond,
      endedChildren: (childUser + childSystem) / ticksPerSecond,
    };
  } catch {
    return { own: 0, endedChildren: 0 };
  }
};

export const cpuOfProcess = (pid: number | null): number => (pid === null ? 0 : times(pid).own);

/** All processes of a server, ended ones too. `without`: backends that serve the measuring itself. */
export const cpuOfServer = (postmaster: number | null, without: readonly number[] = []): number => {
  if (postmaster === null) return 0;
  const { own, endedChildren } = times(postmaster);
  const living = childrenOf(postmaster).filter((pid) => !without.includes(pid));
  return living.reduce((sum, pid) => sum + times(pid).own, own + endedChildren);
};

/** Resident memory of a process in MiB: now, and at its highest. */
export const memoryOf = (pid: number): { readonly nowMiB: number; readonly peakMiB: number } => {
  const text = readFileSync(`/proc/${pid}/status`, "utf8");
  const read = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(text)?.[1] ?? Number.NaN) / 1024;
  return { nowMiB: read("VmRSS"), peakMiB: read("VmHWM") };
};
