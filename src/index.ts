/**
 * Coregent as a library: what the commands do, for programs. A topology comes from `loadConfig` (a coregent.yaml) or
 * `topologyOf` (its text).
 */
export { loadConfig, topologyOf, type ConfigSource } from "./config.ts";
export { OperatorError, type ErrorCode } from "./errors.ts";
export { checkCluster, type Finding } from "./postgres/check.ts";
export { initCluster, type InitOptions, type InitReport } from "./postgres/init.ts";
export { uninstallCluster, type UninstallReport } from "./postgres/uninstall.ts";
export { verifyCluster, type VerifyOptions, type VerifyReport } from "./replication/verify.ts";
export { repairCluster, type RepairOptions, type RepairReport } from "./replication/repair.ts";
export type { Region, Topology } from "../regions/topology.ts";
export { version } from "./version.ts";
