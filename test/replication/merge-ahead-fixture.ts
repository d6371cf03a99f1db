import type { Client } from "pg";
import { expect } from "vitest";
import { qualified } from "../../src/postgres/identifiers.ts";
import type { Batch } from "../../src/replication/batch.ts";
import type { MergeSession } from "../../src/replication/merge-session.ts";
import { eventually } from "../support/eventually.ts";
import { batchOf, type Given, MergeRegion } from "./merge-fixture.ts";
import { at, blockedSql, row, tombstone } from "./merge-helpers.ts";
import { aheadName, batchUntil, contextIn, LocalMerger } from "./merger-fixture.ts";

type Stamp = NonNullable<Parameters<typeof row>[1]>;
type Values = { readonly val?: string; readonly name?: string };

/** A row that region 2 has written at moment `n`. */
export const put = (id: string, n: number, { val = "", name, ...stamp }: Values & Stamp = {}): Given => ({
  state: row(at(n, 2), stamp),
  fields: { id, val, name: name ?? null },
});

export const bury = (id: string, n: number, stamp: Stamp = {}): Given => ({
  state: tombstone(at(n, 2), stamp),
  fields: { id },
});

/** What region `by` has written. */
const by = (given: Given, n: number, by: number): Given => ({
  ...given,
  state: { ...given.state, version: at(n, by) },
});

/** Conflicts of all kinds, with what was written here: `key` begins with the batch's name. */
export const conflicts = (
  key: string,
): { readonly here: Given[]; readonly other: Given[]; readonly there: Given[] } => ({
  here: [
    by(put(`${key} row lost`, 0, { val: "here" }), 5, 1),
    by(put(`${key} row won`, 0, { val: "here" }), 9, 1),
    by(bury(`${key} tombstone lost`, 0), 5, 1),
    by(bury(`${key} tombstone won`, 0), 9, 1),
    by(put(`${key} row deleted`, 0, { val: "here" }), 5, 1),
    by(put(`${key} row not deleted`, 0, { val: "here" }), 9, 1),
    by(put(`${key} not lost`, 0, { val: "here" }), 5, 1),
  ],
  // The log has it, until what was written upon the loser comes.
  other: [by(put(`${key} not lost`, 0), 6, 3)],
  there: [
    put(`${key} row lost`, 7),
    put(`${key} row won`, 7),
    put(`${key} tombstone lost`, 7),
    put(`${key} tombstone won`, 7),
    bury(`${key} row deleted`, 7),
    bury(`${key} row not deleted`, 7),
    put(`${key} not lost`, 8, { prev: at(5, 1), seen: [at(5, 1), at(6, 3)] }),
  ],
});

interface Seen {
  /** How far the peer is merged; null: nothing is. */
  readonly lsn: number | null;
  readonly ids: readonly string[];
}

/** A region of its own for a file of tests. */
export const aheadRegion = (): Promise<MergeRegion> =>
  MergeRegion.create({ schema: "CREATE TABLE t (id text PRIMARY KEY, val text, name text UNIQUE)" });

/** In an empty region a merger that has its second session. */
export class AheadScene implements AsyncDisposable {
  readonly region: MergeRegion;
  local!: LocalMerger;
  #session: MergeSession | null = null;

  private constructor(region: MergeRegion) {
    this.region = region;
  }

  /** `lockTimeout`: of the first session; the default is long enough for what tests wait for. */
  static async open(region: MergeRegion, lockTimeout = "20s"): Promise<AheadScene> {
    const relations = region.tables.flatMap((each) => [
      qualified(each.schema, each.table),
      qualified("coregent", each.tombstone),
    ]);
    await region.db.query(`TRUNCATE ${[...relations, "coregent.quarantine", "coregent.progress"].join()}`);
    const scene = new AheadScene(region);
    await scene.begin(lockTimeout);
    return scene;
  }

  /** As a link's attempt does, with a session of its own. */
  async begin(lockTimeout = "20s"): Promise<LocalMerger> {
    const spare = this.local?.spare;
    await this.#session?.[Symbol.asyncDispose]();
    this.#session = await this.region.session({ settings: { lock_timeout: lockTimeout } });
    this.local = new LocalMerger(contextIn(this.region), {
      session: this.#session,
      ...(spare === undefined ? {} : { spare }),
    });
    return this.local.ready();
  }

  batch(endLsn: number, ...given: Given[]): Batch {
    return batchUntil(BigInt(endLsn), batchOf(this.region.table("t"), given));
  }

  /** Two batches that have no key in common. */
  apart(): [Batch, Batch] {
    return [this.batch(10, put("a", 1)), this.batch(20, put("b", 2))];
  }

  /** What others see at one moment. */
  async seen(by?: Client): Promise<Seen> {
    const sql = `SELECT (SELECT (lsn - '0/0')::int FROM coregent.progress WHERE origin = 2) AS lsn,
                        array(SELECT id FROM t ORDER BY id) AS ids`;
    const [seen] =
      by === undefined
        ? await this.region.db.query<Seen & Record<string, unknown>>(sql)
        : (await by.query<Seen & Record<string, unknown>>(sql)).rows;
    return seen!;
  }

  /** The second session, once a batch is in it and it waits for nothing: gives its process and its transaction. */
  async merged(): Promise<{ readonly pid: number; readonly xid: string }> {
    return eventually(
      async () => {
        const [session] = await this.region.db.query<{ pid: number; xid: string }>(
          `SELECT pid, backend_xid::text AS xid FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = $1 AND state = 'idle in transaction'
              AND backend_xid IS NOT NULL AND clock_timestamp() > state_change + interval '50 ms'`,
          [aheadName],
        );
        if (session === undefined) throw new Error("no batch is merged ahead");
        return session;
      },
      { timeoutMs: 10_000 },
    );
  }

  /** Sessions in which a batch may be merged ahead, and what each holds. */
  async aheads(): Promise<
    { readonly pid: number; readonly state: string; readonly xid: string | null; readonly locks: number }[]
  > {
    return this.region.db.query(
      `SELECT pid, state, backend_xid::text AS xid,
              (SELECT count(*)::int FROM pg_locks AS l WHERE l.pid = a.pid AND l.locktype <> 'virtualxid') AS locks
         FROM pg_stat_activity AS a WHERE datname = current_database() AND application_name = $1`,
      [aheadName],
    );
  }

  async waits(application: string): Promise<boolean> {
    return (await this.region.db.query(blockedSql, [application])).length > 0;
  }

  async blocked(application: string): Promise<void> {
    await eventually(() => this.waits(application), { what: `the wait of ${application}` });
  }

  /** The first batch waits for a lock that another session has taken, while the second one has been merged ahead. */
  async held(lockSql: string, batches: readonly [Batch, Batch]) {
    const holder = await this.region.db.connect();
    await holder.query(`BEGIN; ${lockSql}`);
    const { done } = await this.local.begin(...batches);
    await this.blocked("merge 2");
    return { holder, done, ahead: await this.merged() };
  }

  async pid(): Promise<number> {
    const [session] = await this.region.db.query<{ pid: number }>(
      "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'merge 2' ORDER BY backend_start DESC",
    );
    return session!.pid;
  }

  /** Nothing was set aside, and nothing reported as lost. */
  async nothingLost(): Promise<void> {
    expect(await this.region.db.query("SELECT key, reason FROM coregent.quarantine")).toEqual([]);
    expect(await this.region.db.query("SELECT key, type FROM coregent.conflict")).toEqual([]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.local[Symbol.asyncDispose]();
    await this.#session?.[Symbol.asyncDispose]();
  }
}
