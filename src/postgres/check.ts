import type { ClientBase } from "pg";
import { systemClock, type Clock } from "../clock.ts";
import type { Region, Topology } from "../../regions/topology.ts";
import { readCandidates } from "./catalog.ts";
import {
  clusterFindings,
  foreignKeyFindings,
  localSequenceFindings,
  type RegionFacts,
} from "./check-cluster.ts";
import { measureClock, readInstalledFacts, readServerFacts } from "./check-facts.ts";
import { critical, fine, type Finding, type LocalFinding } from "./check-finding.ts";
import { driftFindings } from "./check-installed.ts";
import {
  identityFindings,
  newestVersion,
  oldestVersion,
  serverFindings,
  type RolesNeeded,
} from "./check-server.ts";
import { isReplicable, tableFindings } from "./check-table.ts";
import { connect } from "./client.ts";
import { sqlStateOf } from "./sqlstate.ts";

export type { Finding } from "./check-finding.ts";

export interface CheckOptions {
  /** Default `install`. */
  readonly rolesNeeded?: RolesNeeded;
  /**
   * Whether what `init` has made is looked at too (default true). `init` itself asks with false: drift is what it
   * mends, and no reason to refuse.
   */
  readonly drift?: boolean;
}

/** Each thing that is missing or in the way in one region, with its remedy. Changes nothing. */
export const checkRegion = async (
  client: ClientBase,
  region: Region,
  topology: Topology,
  options: CheckOptions = {},
): Promise<Finding[]> => {
  try {
    const facts = await readRegionFacts(client, region, topology, systemClock());
    return named(region, regionFindings(facts, topology, options));
  } catch (error) {
    if (error instanceof UnsupportedServer) return named(region, [unreachable(region, error)]);
    throw error;
  }
};

export interface ClusterCheckOptions extends CheckOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: (text: string) => void;
  readonly connectTimeoutMs?: number;
}

/**
 * All regions, each by itself and compared with the others, in the topology's order. A region that cannot be
 * reached is a critical finding; the others are checked nevertheless.
 */
export const checkCluster = async (
  topology: Topology,
  options: ClusterCheckOptions = {},
): Promise<Finding[]> => {
  const clock = systemClock();
  options.onProgress?.(`looking at ${topology.regions.length} regions`);
  const results = await Promise.allSettled(
    topology.regions.map((region) => factsOf(region, topology, options, clock)),
  );
  options.signal?.throwIfAborted();
  const reached = results.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
  const compared = clusterFindings(reached, topology);
  const findings = topology.regions.flatMap((region, index) => {
    const result = results[index];
    if (result?.status !== "fulfilled") return named(region, [unreachable(region, result?.reason)]);
    return named(region, regionFindings(result.value, topology, options)).concat(
      compared.filter((finding) => finding.region === region.name),
    );
  });
  return withoutRepetitions(findings);
};

const named = (region: Region, findings: readonly LocalFinding[]): Finding[] =>
  findings.map((finding) => ({ region: region.name, ...finding }));

/** What shows in one region alone shows in the comparison too. */
const withoutRepetitions = (findings: readonly Finding[]): Finding[] => [
  ...new Map(
    findings.map((finding) => [JSON.stringify([finding.region, finding.code, finding.object]), finding]),
  ).values(),
];

const factsOf = async (
  region: Region,
  topology: Topology,
  options: ClusterCheckOptions,
  clock: Clock,
): Promise<RegionFacts> => {
  options.signal?.throwIfAborted();
  const client = await connect(region.postgres.reveal(), {
    applicationName: `coregent check ${region.name}`,
    ...(options.connectTimeoutMs === undefined ? {} : { connectTimeoutMs: options.connectTimeoutMs }),
  });
  const stop = (): void => void client.end().catch(() => undefined);
  options.signal?.addEventListener("abort", stop);
  try {
    return await readRegionFacts(client, region, topology, clock);
  } finally {
    options.signal?.removeEventListener("abort", stop);
    await client.end().catch(() => undefined);
  }
};

const readRegionFacts = async (
  client: ClientBase,
  region: Region,
  topology: Topology,
  clock: Clock,
): Promise<RegionFacts> => {
  const version = await client.query<{ num: number }>(
    "SELECT current_setting('server_version_num')::int AS num",
  );
  const major = Math.floor((version.rows[0]?.num ?? 0) / 10_000);
  if (major < oldestVersion) throw new UnsupportedServer(major);
  const server = await readServerFacts(client);
  // A schema of our name that our role may not read is a finding (role_schema), not a failure.
  const readable = server.installed && (server.role.superuser || server.schema?.owned === true);
  const installed = readable ? await readInstalledFacts(client) : null;
  const candidates = await readCandidates(client, {
    schemas: topology.schemas,
    tables: installed?.tables.map((table) => table.name) ?? [],
  });
  return { region, server, installed, candidates, clock: await measureClock(client, clock) };
};

const regionFindings = (facts: RegionFacts, topology: Topology, options: CheckOptions): LocalFinding[] => {
  const { region, server, installed, candidates } = facts;
  const there = new Set(installed?.tables.map((table) => table.name));
  const own = candidates.filter((candidate) => topology.schemas.includes(candidate.schema));
  return [
    ...serverFindings(server, region, topology, options.rolesNeeded ?? "install"),
    ...(installed === null ? [] : identityFindings(installed, region, topology)),
    ...own.flatMap((candidate) => {
      const found = [
        ...tableFindings(candidate, {
          role: server.role,
          settings: topology.tables.find((table) => table.name === candidate.name),
          installed: there.has(candidate.name),
        }),
        ...localSequenceFindings(candidate, region, topology),
        ...foreignKeyFindings(candidate, candidates),
      ];
      const ready = isReplicable(candidate) && found.every((one) => one.severity !== "critical");
      return ready ? [...found, fine("table", candidate.name, "can be replicated")] : found;
    }),
    ...(installed === null || options.drift === false
      ? []
      : driftFindings({ server, installed, candidates }, region, topology)),
  ];
};

class UnsupportedServer extends Error {
  readonly major: number;
  constructor(major: number) {
    super(`PostgreSQL ${major} is not supported`);
    this.major = major;
  }
}

const unreachable = (region: Region, reason: unknown): LocalFinding => {
  const message = reason instanceof Error ? reason.message : String(reason);
  if (reason instanceof UnsupportedServer) {
    return critical(
      "server_version",
      `PostgreSQL ${reason.major}`,
      message,
      `Use PostgreSQL ${oldestVersion} to ${newestVersion} (pg_upgrade keeps the data).`,
    );
  }
  if (sqlStateOf(reason)?.startsWith("28") === true || sqlStateOf(reason) === "3D000") {
    return critical(
      "login_refused",
      String(region.postgres),
      message,
      "Correct the region's postgres URL or its password, or let pg_hba.conf admit this client.",
    );
  }
  return critical(
    "unreachable",
    String(region.postgres),
    `cannot be asked: ${message}`,
    "See that the server runs and that this machine may reach it (psql with the URL of the configuration tells).",
  );
};
