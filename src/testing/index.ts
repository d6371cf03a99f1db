/** `coregent/testing`: test an application's own schema for convergence, on real PostgreSQL. See docs/testing.md. */
export { startCluster, type TestCluster } from "./cluster.ts";
export type { TestRegion } from "./region.ts";
export type { ClusterOptions, CutOptions, EndpointOptions, KillOptions, TableOptions } from "./options.ts";
export type { Conditions } from "../embedded/fault-proxy.ts";
export type { AgentProcess } from "./agent-process.ts";
export type { CommandResult } from "./program.ts";
export type { Server } from "../embedded/server.ts";
export type { PostgresVersion } from "../embedded/binaries.ts";
