import { setFlagsFromString } from "node:v8";

/**
 * An agent shares few cores with the servers that it has at work, and its heap is small: helper threads that mark and sweep it
 * beside it cost these servers more than the pauses they spare (docs/benchmarks.md).
 */
export const collectOnOneThread = (): void => {
  const flags = [
    "--no-concurrent-marking",
    "--no-concurrent-sweeping",
    "--no-concurrent-array-buffer-sweeping",
    "--no-parallel-scavenge",
  ];
  for (const flag of flags) setFlagsFromString(flag);
};
