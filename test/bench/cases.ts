import type { BenchCase } from "./case.ts";
import { drainCase } from "./drains/drain.ts";
import { workloads } from "./drains/workloads.ts";

/** In the order of the report. */
export const cases: readonly BenchCase[] = workloads.map(drainCase);
