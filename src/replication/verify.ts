import { systemClock, type Clock } from "../clock.ts";
import type { Topology } from "../../regions/topology.ts";
import { sqlStateOf } from "../postgres/sqlstate.ts";
import { RegionReader, type TableScan, type VerifyRegion } from "./verify-region.ts";
import type { Orphans, TableInRegion, TableReport, Verdict, VerifyReport } from "./verify-report.ts";
import {
  compareTable,
  countKinds,
  findSuspects,
  scanTable,
  settle,
  type ComparedTable,
  type Scans,
  type Settled,
} from "./verify-table.ts";

export type { VerifyRegion } from "./verify-region.ts";
export type { VerifyReport } from "./verify-report.ts";

export interface VerifyOptions {
  /** Names (`schema.table`); all replicated tables if not given. */
  readonly tables?: readonly string[];
  /** Compares the content of rows too, not their versions alone. */
  readonly deep?: boolean;
  /** How long differences that may be in flight are waited for; default 12 s: a quiet link records its position every 10 s. */
  readonly waitMs?: number;
  /** Differences and orphans shown of each table; default 20. */
  readonly limit?: number;
  readonly connectTimeoutMs?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (text: string) => void;
  readonly clock?: Clock;
}

/** A name of `tables` that no region replicates. */
export class UnknownTableError extends Error {
  override readonly name = "UnknownTableError";
  readonly table: string;
  readonly known: readonly string[];
  constructor(table: string, known: readonly string[]) {
    super(`no region replicates a table ${table}`);
    this.table = table;
    this.known = known;
  }
}

/** The session to a region broke while it was compared; the others go on without it. */
class RegionLost extends Error {
  readonly region: string;
  constructor(region: string, cause: unknown) {
    super(cause instanceof Error ? cause.message : String(cause), { cause });
    this.region = region;
  }
}

export const regionsOf = (topology: Topology): VerifyRegion[] =>
  topology.regions.map((region) => ({ name: region.name, id: region.id, url: region.postgres.reveal() }));

/**
 * Proves that all regions show the same, or says where they do not. Only reads. A region that cannot be reached makes
 * the verdict `degraded` at best; the others are compared.
 * @throws UnknownTableError; the signal's reason when interrupted; what a server reports about our statements
 */
export const verifyCluster = async (
  target: Topology | readonly VerifyRegion[],
  options: VerifyOptions = {},
): Promise<VerifyReport> => {
  const clock = options.clock ?? systemClock();
  const startedAt = clock.monotonic();
  const regions = "regions" in target ? regionsOf(target) : target;
  const problems = new Map<string, string>();
  for (;;) {
    options.signal?.throwIfAborted();
    try {
      const compared = await verifyReachable(regions, problems, { ...options, clock });
      return report(regions, problems, {
        ...compared,
        deep: options.deep === true,
        elapsedMs: Math.round(clock.monotonic() - startedAt),
      });
    } catch (error) {
      options.signal?.throwIfAborted();
      if (!(error instanceof RegionLost)) throw error;
      problems.set(error.region, error.message);
    }
  }
};

interface Compared {
  readonly tables: readonly TableReport[];
  readonly orphans: readonly Orphans[];
}

type Options = VerifyOptions & { readonly clock: Clock };

const verifyReachable = async (
  regions: readonly VerifyRegion[],
  problems: Map<string, string>,
  options: Options,
): Promise<Compared> => {
  await using stack = new AsyncDisposableStack();
  const readers: RegionReader[] = [];
  const opened = await Promise.allSettled(
    regions
      .filter((region) => !problems.has(region.name))
      .map((region) => openReader(region, options.connectTimeoutMs ?? 5_000)),
  );
  for (const result of opened) if (result.status === "fulfilled") readers.push(stack.use(result.value));
  for (const result of opened) if (result.status === "rejected") note(problems, result.reason);
  const interrupt = (): void => {
    for (const reader of readers) reader.destroy();
  };
  options.signal?.addEventListener("abort", interrupt);
  stack.defer(() => options.signal?.removeEventListener("abort", interrupt));
  return await compareAll(readers, options);
};

const openReader = async (region: VerifyRegion, connectTimeoutMs: number): Promise<RegionReader> => {
  try {
    return await RegionReader.open(region, connectTimeoutMs);
  } catch (error) {
    if (sqlStateOf(error) === "42P01")
      throw new RegionLost(region.name, new Error("Coregent is not installed"));
    throw new RegionLost(region.name, error);
  }
};

const note = (problems: Map<string, string>, reason: unknown): void => {
  if (!(reason instanceof RegionLost)) throw reason;
  problems.set(reason.region, reason.message);
};

/** `work` with one region; an error that its server did not report means that the region is lost. */
const at = async <T>(reader: RegionReader, work: () => Promise<T>): Promise<T> => {
  try {
    return await work();
  } catch (error) {
    const state = sqlStateOf(error);
    // 57: the server shuts down or crashed.
    if (state === null || state.startsWith("57")) throw new RegionLost(reader.region.name, error);
    throw error;
  }
};

const compareAll = async (readers: readonly RegionReader[], options: Options): Promise<Compared> => {
  const known = [...new Set(readers.flatMap((reader) => [...reader.tables.keys()]))].toSorted();
  const unknown = readers.length === 0 ? undefined : options.tables?.find((name) => !known.includes(name));
  if (unknown !== undefined) throw new UnknownTableError(unknown, known);
  const tables = (options.tables ?? known)
    .map((name) => compareTable(name, readers, options.deep === true))
    .filter((table) => table.readers.length > 0);
  options.onProgress?.(`counting and hashing ${tables.length} tables in ${readers.length} regions`);
  const resyncing = new Map(
    await Promise.all(
      readers.map(
        async (reader) => [reader.region.name, await at(reader, () => reader.resyncing())] as const,
      ),
    ),
  );
  const scans = await scanAll(tables, readers);
  const reports: TableReport[] = [];
  for (const table of tables) {
    const resyncingIn = [...resyncing].flatMap(([region, names]) => (names.has(table.name) ? [region] : []));
    const own = scans.get(table.name) ?? new Map<string, TableScan>();
    reports.push(await compareOne(table, own, { ...options, resyncingIn, readers }));
  }
  return { tables: reports, orphans: await findOrphans(tables, readers, options) };
};

/** All regions at once, each its tables one after the other. By table, then region. */
const scanAll = async (
  tables: readonly ComparedTable[],
  readers: readonly RegionReader[],
): Promise<Map<string, Map<string, TableScan>>> => {
  const scans = new Map(tables.map((table) => [table.name, new Map<string, TableScan>()]));
  await Promise.all(
    readers.map(async (reader) => {
      for (const table of tables.filter((one) => one.readers.includes(reader))) {
        const scan = await at(reader, () => scanTable(table, reader));
        scans.get(table.name)?.set(reader.region.name, scan);
      }
    }),
  );
  return scans;
};

const compareOne = async (
  table: ComparedTable,
  firstScans: Scans,
  options: Options & { readonly resyncingIn: readonly string[]; readonly readers: readonly RegionReader[] },
): Promise<TableReport> => {
  const { clock } = options;
  const deadline = clock.monotonic() + (options.waitMs ?? 12_000);
  let scans = firstScans;
  let settledBefore = 0;
  for (;;) {
    const suspects = await anyLost(table.readers, () => findSuspects(table, scans));
    const found: Settled =
      suspects.keys.length === 0
        ? { settled: 0, counts: countKinds([]), differences: [] }
        : await anyLost(table.readers, () =>
            settle(table, suspects.keys, {
              onRead: () => options.onProgress?.(`${table.name}: looking at ${suspects.keys.length} keys`),
              clock,
              deadline,
              limit: options.limit ?? 20,
              signal: options.signal,
              resyncing: options.resyncingIn.length > 0,
              all: options.readers,
            }),
          );
    const again = suspects.more && found.differences.length === 0 && clock.monotonic() < deadline;
    if (!again) {
      return tableReport(table, scans, {
        ...found,
        settled: found.settled + settledBefore,
        more: suspects.more,
        resyncingIn: options.resyncingIn,
      });
    }
    settledBefore += found.settled;
    scans = (await scanAll([table], table.readers)).get(table.name) ?? scans;
  }
};

/** `work` with several regions; which of them was lost, its session tells. */
const anyLost = async <T>(readers: readonly RegionReader[], work: () => Promise<T>): Promise<T> => {
  try {
    return await work();
  } catch (error) {
    for (const reader of readers) await at(reader, () => reader.position());
    throw error;
  }
};

const mod64 = (value: bigint): string => BigInt.asUintN(64, value).toString(16).padStart(16, "0");

const inRegion = (scan: TableScan): TableInRegion => {
  let rows = 0n;
  let hash = 0n;
  for (const bucket of scan.buckets.values()) {
    rows += bucket.rows;
    hash += bucket.hash;
  }
  return { rows, hash: mod64(hash), tombstones: scan.tombstones, quarantined: scan.quarantined };
};

const tableReport = (
  table: ComparedTable,
  scans: Scans,
  found: Settled & { readonly more: boolean; readonly resyncingIn: readonly string[] },
): TableReport => {
  const { counts } = found;
  const regions = Object.fromEntries([...scans].map(([region, scan]) => [region, inRegion(scan)]));
  const held = Object.values(regions).some((region) => region.quarantined > 0n);
  const unproven = counts.inFlight + counts.moving + counts.resyncing > 0 || found.more;
  const incomplete =
    table.missingIn.length > 0 || found.resyncingIn.length > 0 || table.notCompared.length > 0;
  const diverged = counts.states + counts.content > 0;
  return {
    name: table.name,
    verdict: diverged ? "diverged" : held || unproven || incomplete ? "degraded" : "equal",
    regions,
    missingIn: table.missingIn,
    resyncingIn: found.resyncingIn,
    settled: found.settled,
    counts,
    differences: found.differences,
    more: found.more,
    notCompared: table.notCompared,
  };
};

const findOrphans = async (
  tables: readonly ComparedTable[],
  readers: readonly RegionReader[],
  options: Options,
): Promise<Orphans[]> => {
  options.onProgress?.("looking for rows without the row they refer to");
  const names = new Set(tables.map((table) => table.name));
  const lists = await Promise.all(
    readers.map((reader) =>
      at(reader, async () => {
        const found: Orphans[] = [];
        for (const key of await reader.foreignKeys([...names])) {
          const table = reader.tables.get(`${key.schema}.${key.table}`);
          if (table === undefined) continue;
          const { count, keys } = await reader.orphans(table, key, options.limit ?? 20);
          if (count === 0n) continue;
          found.push({
            region: reader.region.name,
            table: table.name,
            constraint: key.name,
            references: `${key.refSchema}.${key.refTable}`,
            count,
            keys,
          });
        }
        return found;
      }),
    ),
  );
  return lists.flat();
};

const report = (
  regions: readonly VerifyRegion[],
  problems: ReadonlyMap<string, string>,
  compared: Compared & { readonly deep: boolean; readonly elapsedMs: number },
): VerifyReport => {
  const { tables, orphans } = compared;
  const some = (verdict: Verdict): boolean => tables.some((table) => table.verdict === verdict);
  const total = (kind: keyof TableReport["counts"]): number =>
    tables.reduce((sum, table) => sum + table.counts[kind], 0);
  const quarantined = tables.reduce(
    (sum, table) => sum + Object.values(table.regions).reduce((own, region) => own + region.quarantined, 0n),
    0n,
  );
  const reasons = [
    ...[...problems].map(([region, problem]) => `${region} was not compared: ${problem}`),
    counted(total("states"), "keys hold different states"),
    counted(total("content"), "rows of one version differ in their content"),
    counted(total("inFlight"), "keys differ whose changes are still on their way"),
    counted(total("moving"), "keys kept changing while they were compared"),
    counted(total("resyncing"), "keys differ in tables that are being copied"),
    counted(quarantined, "rows are quarantined"),
    counted(
      orphans.reduce((sum, orphan) => sum + orphan.count, 0n),
      "rows refer to a row that is not there",
    ),
    ...tables.flatMap((table) => [
      table.missingIn.length === 0 ? "" : `${table.name} is not replicated in ${table.missingIn.join(", ")}`,
      table.resyncingIn.length === 0
        ? ""
        : `${table.name} is being copied to ${table.resyncingIn.join(", ")}`,
      table.more ? `${table.name} has more differing keys than were looked at` : "",
      table.notCompared.length === 0 ? "" : `${table.name}: not compared: ${table.notCompared.join(", ")}`,
    ]),
  ].filter((reason) => reason !== "");
  return {
    verdict: some("diverged") ? "diverged" : reasons.length > 0 || some("degraded") ? "degraded" : "equal",
    reasons,
    deep: compared.deep,
    elapsedMs: compared.elapsedMs,
    regions: regions.map(({ name, id }) => ({ name, id, problem: problems.get(name) ?? null })),
    tables,
    orphans,
  };
};

const counted = (count: number | bigint, what: string): string => (count > 0 ? `${count} ${what}` : "");
