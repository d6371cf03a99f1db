import type { Row, State, Tombstone } from "../../conflict/state.ts";
import { pack } from "../../conflict/version.ts";
import type { TableBatch } from "../../src/replication/batch.ts";
import { mergeBatch, type MergeOptions } from "../../src/replication/merge.ts";
import type { MergeReport } from "../../src/replication/merge-report.ts";
import type { MergeSession } from "../../src/replication/merge-session.ts";

/** Version `n` of a region: microseconds around now, so that local stamps are above it only if they have seen it. */
export const at = (n: number, region: number): bigint => pack(1_700_000_000_000_000n + BigInt(n), region);

/** Far above any clock of this century. */
export const future = (n: number, region: number): bigint => pack(8_000_000_000_000_000n + BigInt(n), region);

type Stamp = Partial<Pick<State, "base" | "prev" | "seen">>;

export const row = (version: bigint, stamp: Stamp = {}): Row => ({
  kind: "row",
  content: "",
  version,
  base: stamp.base ?? 0n,
  prev: stamp.prev ?? 0n,
  seen: stamp.seen ?? null,
});

export const tombstone = (version: bigint, stamp: Stamp = {}): Tombstone => ({
  kind: "tombstone",
  version,
  base: stamp.base ?? 0n,
  prev: stamp.prev ?? 0n,
  seen: stamp.seen ?? null,
});

/** Merges and commits. */
export const mergeNow = async (
  session: MergeSession,
  parts: TableBatch | readonly TableBatch[],
  options: MergeOptions = {},
): Promise<MergeReport> =>
  session.transaction(() =>
    mergeBatch(session, { tables: Array.isArray(parts) ? parts : [parts as TableBatch] }, options),
  );

/** Of sessions of this application name which wait for a lock. */
export const blockedSql = `
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1 AND wait_event_type = 'Lock'`;
