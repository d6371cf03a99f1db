import { PerformanceObserver } from "node:perf_hooks";
import { getHeapSpaceStatistics, setFlagsFromString } from "node:v8";

/**
 * How V8 keeps the objects that have just been made. Imported first of all: it holds from then on, and much is made while
 * modules are evaluated.
 */

/**
 * Bytes of either half of their space. Whenever much survives, V8 doubles it, up to 64 MB, and never needs that: requests and
 * batches are dead when they have been answered and merged. Where little is allocated it makes it smaller again, so it may
 * grow as long as it is small: else an agent that was idle once collects what is young so often, and puts so much of it among
 * the old objects, that all must be collected every few seconds (docs/benchmarks.md, "The agent").
 */
const largestHalf = 8 * 2 ** 20;

const halfOfNewSpace = (): number => {
  const space = getHeapSpaceStatistics().find(({ space_name: name }) => name === "new_space");
  return space === undefined ? 0 : space.space_used_size + space.space_available_size;
};

const limitGrowth = (): void => {
  setFlagsFromString(`--semi-space-growth-factor=${2 * halfOfNewSpace() <= largestHalf ? 2 : 1}`);
};

// V8 grows it when it collects it, and this is told in the event loop's next turn: one turn in which very much survives can
// pass the limit.
new PerformanceObserver(limitGrowth).observe({ entryTypes: ["gc"] });
limitGrowth();

/**
 * Nothing is put among the old objects at once because its like has survived once. Of a request that is a few
 * objects, dead soon, which keep all the others that it made through every minor collection: each took 7 ms instead of 1
 * (docs/benchmarks.md, "The endpoint").
 */
setFlagsFromString("--no-allocation-site-pretenuring");
