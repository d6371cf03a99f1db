import type { BenchCase } from "./case.ts";
import { endpoint } from "./cases/endpoint.ts";
import { failover } from "./cases/endpoint-failover.ts";
import { idle } from "./cases/idle.ts";
import { join } from "./cases/join.ts";
import { lag } from "./cases/lag.ts";
import { local } from "./cases/local.ts";
import { memory } from "./cases/memory.ts";
import { cpuRegions } from "./cases/regions.ts";
import { three } from "./cases/three.ts";
import { verify } from "./cases/verify.ts";
import { drainCase } from "./drains/drain.ts";
import { workloads } from "./drains/workloads.ts";

/** In the order of the report. */
export const cases: readonly BenchCase[] = [
  ...workloads.map(drainCase),
  lag,
  three,
  local,
  join,
  verify,
  memory,
  cpuRegions,
  idle,
  endpoint,
  failover,
];
