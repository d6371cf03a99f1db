import { PerformanceObserver } from "node:perf_hooks";
import { getHeapSpaceStatistics, setFlagsFromString } from "node:v8";

/**
 * How V8 keeps the objects that have just been made.
 *
 * Their space has up to 16 MB. Whenever much survives, V8 doubles it, up to 128 MB, and never needs that: requests and batches
 * are dead when they have been answered and merged. An idle agent has 113 MiB instead of 124, one that drains a large backlog
 * 220 instead of 300, at the same CPU. Where little is allocated V8 makes it smaller again, down to 1 MB, so it may
 * grow as long as it is small: else an agent that was idle once would collect young objects 56 times a second at 1,000
 * transactions/s, and put so many among the old ones that all had to be collected every few seconds.
 *
 * And nothing is put among the old objects at once because its like has survived once. Of a request that is a few
 * objects, dead soon, which keep all the others that it made through every minor collection: each took 7 ms instead of 1
 * (docs/benchmarks.md, "The endpoint").
 */

/** Bytes, both halves together. */
const largestNewSpace = 16 * 2 ** 20;

const newSpace = (): number =>
  getHeapSpaceStatistics().find(({ space_name: name }) => name === "new_space")?.space_size ?? 0;

const limitGrowth = (): void => {
  setFlagsFromString(`--semi-space-growth-factor=${newSpace() < largestNewSpace ? 2 : 1}`);
};

// It grows when it is collected.
new PerformanceObserver(limitGrowth).observe({ entryTypes: ["gc"] });
limitGrowth();
setFlagsFromString("--no-allocation-site-pretenuring");
