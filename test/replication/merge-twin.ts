import { succeeded } from "../../conflict/classify.ts";
import { merge, retracts, type Report } from "../../conflict/conflict-log.ts";
import { compareStates, join, write, type State } from "../../conflict/state.ts";
import type { Version } from "../../conflict/version.ts";
import type { ReplicatedTable } from "../../src/postgres/table.ts";
import type { TableBatch } from "../../src/replication/batch.ts";
import type { MergeOptions } from "../../src/replication/merge.ts";
import { mergeBatch } from "../../src/replication/merge.ts";
import type { MergeSession } from "../../src/replication/merge-session.ts";
import { batchOf, type MergeRegion } from "./merge-fixture.ts";

/** A region in memory by the pure rules of conflict/, and the same region in PostgreSQL by mergeBatch. */

export interface Change {
  readonly key: string;
  readonly state: State;
}

export interface Reported {
  readonly key: string;
  readonly loser: string;
  readonly type: string;
  readonly loserKind: string;
  readonly content: string | null;
  readonly winner: string;
}

interface Loss extends Report {
  readonly key: string;
}

const reported = ({ key, loser, winner, type }: Loss): Reported => ({
  key,
  loser: String(loser.version),
  type,
  loserKind: loser.kind,
  content: loser.kind === "row" ? loser.content : null,
  winner: String(winner.version),
});

const byKeyAndLoser = (a: Reported, b: Reported): number =>
  a.key === b.key ? (BigInt(a.loser) < BigInt(b.loser) ? -1 : 1) : a.key < b.key ? -1 : 1;

/** The dumb twin. */
export class PureRegion {
  readonly id: number;
  readonly held = new Map<string, State>();
  /** By key and the loser's version. */
  readonly log = new Map<string, Loss>();
  floor: Version = 0n;

  constructor(id: number) {
    this.id = id;
  }

  write(key: string, by: { clockMicros: bigint; content: string | null; authority: boolean }): Change | null {
    const replaced = this.held.get(key) ?? null;
    if (by.content === null && replaced?.kind !== "row") return null;
    const state = write(replaced, { ...by, region: this.id, above: this.floor });
    this.held.set(key, state);
    return { key, state };
  }

  merge(changes: readonly Change[]): void {
    const highest = new Map<string, State>();
    for (const { key, state } of changes) {
      const other = highest.get(key);
      highest.set(key, other === undefined ? state : join(other, state));
    }
    for (const [key, state] of highest) this.#mergeOne(key, state);
  }

  /**
   * What `logged` must be. It may lack a loss where it has a higher one of the key that has seen it: that is enough for
   * L1, and where a state comes again after it was deleted here, this twin has forgotten the tombstone, which had seen it.
   * What is lacking by right is forgotten here too: if the state comes once more, it may be reported against what is held then.
   */
  reports(logged: readonly Reported[]): Reported[] {
    const has = new Set(logged.map(({ key, loser }) => `${key} ${loser}`));
    const excused = (loss: Loss): boolean =>
      [...this.log].some(
        ([id, { key, loser: of }]) =>
          has.has(id) &&
          key === loss.key &&
          compareStates(of, loss.loser) > 0 &&
          succeeded(loss.loser.version, of),
      );
    for (const [id, loss] of this.log) if (!has.has(id) && excused(loss)) this.log.delete(id);
    return [...this.log.values()].map(reported).sort(byKeyAndLoser);
  }

  #mergeOne(key: string, incoming: State): void {
    const { held, replaces, report, floor } = merge(this.held.get(key) ?? null, incoming, this.id);
    if (floor > this.floor) this.floor = floor;
    this.held.set(key, held);
    if (report !== null) {
      const id = `${key} ${report.loser.version}`;
      if (!this.log.has(id)) this.log.set(id, { key, ...report });
    }
    if (!replaces) return;
    for (const [id, loss] of this.log) {
      if (loss.key === key && retracts(loss.loser.version, held, this.id)) this.log.delete(id);
    }
  }
}

const given = (changes: readonly Change[]) =>
  changes.map(({ key, state }) => ({
    state,
    fields: {
      id: key,
      ...(state.kind === "row" ? { val: state.content, owner: null } : {}),
    },
  }));

/** The same region in PostgreSQL. The table has columns `id text` (its key), `val text` and `owner text`. */
export class SqlRegion {
  readonly #region: MergeRegion;
  readonly #session: MergeSession;
  readonly #table: ReplicatedTable;
  readonly #options: MergeOptions;

  constructor(region: MergeRegion, session: MergeSession, table: ReplicatedTable, options: MergeOptions) {
    this.#region = region;
    this.#session = session;
    this.#table = table;
    this.#options = options;
  }

  async clear(): Promise<void> {
    const log = this.#region.table("conflict");
    const relations = [this.#table, log].flatMap((t) => [
      `"${t.schema}"."${t.table}"`,
      `coregent."${t.tombstone}"`,
    ]);
    await this.#region.db.query(
      `SET session_replication_role = replica; ${relations.map((name) => `DELETE FROM ${name}`).join("; ")};
       RESET session_replication_role; SELECT setval('coregent.floor', 1)`,
    );
  }

  async merge(changes: readonly Change[], format: "binary" | "text"): Promise<void> {
    const batch: TableBatch = batchOf(this.#table, given(changes), format);
    await this.#session.transaction(() => mergeBatch(this.#session, { tables: [batch] }, this.#options));
  }

  /** What the triggers leave behind after this local write, without their clock. */
  async put({ key, state }: Change): Promise<void> {
    const rows = `"${this.#table.schema}"."${this.#table.table}"`;
    const tombstones = `coregent."${this.#table.tombstone}"`;
    const owned = this.#table.ownerColumn !== null;
    const stamp = [state.version, state.prev, state.seen, ...(owned ? [state.base] : [])];
    const columns = ["cg_version", "cg_prev", "cg_seen", ...(owned ? ["cg_base"] : [])];
    const isRow = state.kind === "row";
    const all = ["id", ...columns, ...(isRow ? ["val"] : [])];
    await this.#session.client.query(
      `INSERT INTO ${isRow ? rows : tombstones} (${all.join()}) VALUES (${all.map((_, i) => `$${i + 1}`).join()})
       ON CONFLICT (id) DO UPDATE SET ${all.map((name) => `${name} = excluded.${name}`).join()}`,
      [key, ...stamp, ...(isRow ? [state.content] : [])],
    );
    if (!isRow) await this.#session.client.query(`DELETE FROM ${rows} WHERE id = $1`, [key]);
  }

  /** The highest state of every key; fails where a row lies below its tombstone. */
  async held(): Promise<Map<string, State>> {
    const base = this.#table.ownerColumn === null ? "0" : "cg_base";
    const stamp = `${base}::text AS base, cg_version::text AS version, cg_prev::text AS prev, cg_seen::text[] AS seen`;
    const rows = await this.#region.db.query<Record<string, string> & { seen: string[] | null }>(
      `SELECT id, 'row' AS kind, val, ${stamp} FROM "${this.#table.schema}"."${this.#table.table}"
       UNION ALL SELECT id, 'tombstone', NULL, ${stamp} FROM coregent."${this.#table.tombstone}" ORDER BY kind`,
    );
    const held = new Map<string, State>();
    for (const { id = "", kind, val, base, version, prev, seen } of rows) {
      const stamp = {
        base: BigInt(base ?? 0),
        version: BigInt(version ?? 0),
        prev: BigInt(prev ?? 0),
        seen: seen?.map(BigInt) ?? null,
      };
      const state: State =
        kind === "row" ? { kind: "row", content: val ?? "", ...stamp } : { kind: "tombstone", ...stamp };
      const row = held.get(id);
      if (row !== undefined && compareStates(state, row) > 0)
        throw new Error(`${id}: a row below its tombstone`);
      if (row === undefined) held.set(id, state);
    }
    return held;
  }

  async reports(): Promise<Reported[]> {
    const rows = await this.#region.db.query<Record<string, string>>(
      `SELECT key::jsonb ->> 0 AS key, loser_version::text AS loser, type, loser_kind AS "loserKind",
              loser_row ->> 'val' AS content, winner_version::text AS winner
         FROM coregent.conflict WHERE table_name = $1 AND detected_in = $2`,
      [this.#table.name, this.#region.id],
    );
    return (rows as unknown as Reported[]).sort(byKeyAndLoser);
  }

  async floor(): Promise<bigint> {
    const [row] = await this.#region.db.query<{ floor: string }>(
      "SELECT coregent.floor_version()::text AS floor",
    );
    return BigInt(row?.floor ?? 0);
  }
}
