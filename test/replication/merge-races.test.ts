import { expect, test } from "vitest";
import { reactionTo, sqlStateOf } from "../../src/postgres/sqlstate.ts";
import { mergeBatch } from "../../src/replication/merge.ts";
import type { MergeSession } from "../../src/replication/merge-session.ts";
import { Sweeper } from "../../src/replication/sweeper.ts";
import { eventually } from "../support/eventually.ts";
import { batchOf, MergeRegion } from "./merge-fixture.ts";
import { at, blockedSql, future, mergeNow, row, tombstone } from "./merge-helpers.ts";

const schema = `CREATE TABLE t (id text PRIMARY KEY, val text)`;
const settings = { lock_timeout: "20s" };

/** A backend that is just starting may be of any database, and be waited for: so it may take some rounds. */
const settled = (sweeper: Sweeper, sweeping: MergeSession): Promise<unknown> =>
  eventually(async () => {
    expect(await sweeper.round(sweeping)).toMatchObject({ waiting: 0, error: null });
  });

const setUp = async () => {
  const region = await MergeRegion.create({ schema });
  const table = region.table("t");
  const put = (version: bigint, id = "a") =>
    batchOf(table, [{ state: row(version), fields: { id, val: String(version) } }]);
  const bury = (version: bigint, id = "a") => batchOf(table, [{ state: tombstone(version), fields: { id } }]);
  const rows = () => region.db.query("SELECT id, val, cg_version::text AS version FROM t ORDER BY id");
  const losers = async () =>
    (await region.db.query("SELECT loser_kind, loser_row ->> 'val' AS val FROM coregent.conflict")).map(
      ({ loser_kind, val }) => `${String(loser_kind)} ${String(val)}`,
    );
  return { region, table, put, bury, rows, losers };
};

test("a row that was inserted, but not committed, while its tombstone was merged goes in a later sweep", async () => {
  const { region, bury, rows, losers } = await setUp();
  await using _ = region;
  const session = await region.session();
  const sweeping = await region.session({ origin: null });
  const sweeper = new Sweeper();
  const local = await region.db.connect();
  const bystander = await region.db.connect();
  await bystander.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM t");
  await local.query("BEGIN; INSERT INTO t VALUES ('a', 'local')");
  for (const keys of (await mergeNow(session, bury(future(1, 2)))).sweepLater) sweeper.add(keys);

  expect(await sweeper.round(sweeping)).toMatchObject({ rowsSwept: 0, waiting: 1 });
  await local.query("COMMIT");
  expect(await rows()).toHaveLength(1);
  // Another transaction, which has only read, does not hold it up, and keeps the key; so does what was reported.
  expect(await sweeper.round(sweeping)).toMatchObject({ rowsSwept: 1, waiting: 2, error: null });
  expect(await rows()).toEqual([]);
  expect(await losers()).toEqual(["row local"]);
  await bystander.query("COMMIT");
  await settled(sweeper, sweeping);
});

test("a sweep's report is retracted when a merge that it did not see brings what descends from the loser", async () => {
  const { region, put, bury, losers } = await setUp();
  await using _ = region;
  const session = await region.session();
  const sweeping = await region.session({ origin: null });
  const sweeper = new Sweeper();
  const local = await region.db.connect();
  await local.query("BEGIN; INSERT INTO t VALUES ('a', 'local')");
  for (const keys of (await mergeNow(session, bury(at(1, 2)))).sweepLater) sweeper.add(keys);
  await local.query("COMMIT");

  // The tombstone's region has inserted again upon it, above the local row: this is being merged.
  await session.begin();
  await mergeBatch(session, { tables: [put(future(2, 2))] });
  expect(await sweeper.round(sweeping)).toMatchObject({ error: null });
  expect(await losers()).toEqual(["tombstone null"]);
  await session.commit();
  await settled(sweeper, sweeping);
  expect(await losers()).toEqual(["row local"]);
});

test.each([false, true])(
  "a tombstone is not reported as lost that a local writer has just inserted upon (locking first: %s)",
  async (lockFirst) => {
    const { region, bury, rows } = await setUp();
    await using _ = region;
    const session = await region.session({ settings });
    await region.db.query("INSERT INTO t VALUES ('a', 'old')");
    await region.db.query("DELETE FROM t");
    const tombstones = region.table("t").tombstone;
    const [dead] = await region.db.query(`SELECT cg_version::text AS version FROM coregent."${tombstones}"`);
    const local = await region.db.connect();
    await local.query("BEGIN; INSERT INTO t VALUES ('a', 'again')");
    // Above our tombstone, below the row that was inserted upon it.
    const rival = (((BigInt(String(dead?.["version"])) >> 10n) + 1n) << 10n) | 2n;
    const merging = mergeNow(session, bury(rival), { lockFirst });
    await eventually(async () => (await region.db.query(blockedSql, ["merge 2"])).length > 0);
    await local.query("COMMIT");
    await merging;
    expect(await rows()).toMatchObject([{ val: "again" }]);
    expect(await region.db.query("SELECT loser_version::text AS v FROM coregent.conflict")).toEqual([
      { v: String(rival) },
    ]);
  },
);

test("a sweeper forgets the keys of a table that is gone, and goes on with the others", async () => {
  const { region, bury } = await setUp();
  await using _ = region;
  const session = await region.session();
  const sweeping = await region.session({ origin: null });
  const sweeper = new Sweeper();
  for (const keys of (await mergeNow(session, bury(future(1, 2)))).sweepLater) sweeper.add(keys);
  await region.db.query("DROP TABLE t");
  sweeper.addTable({ ...region.table("conflict"), logsConflicts: false });
  await settled(sweeper, sweeping);
});

test("a sweeper that was given too many keys sweeps their tables whole; so does one that starts", async () => {
  const { region, bury, rows } = await setUp();
  await using _ = region;
  const session = await region.session();
  const sweeping = await region.session({ origin: null });
  const local = await region.db.connect();
  await local.query("BEGIN; INSERT INTO t VALUES ('a', 'local'), ('b', 'local'), ('c', 'local')");
  const sweeper = new Sweeper({ maxKeys: 1 });
  for (const id of ["a", "b"]) {
    for (const keys of (await mergeNow(session, bury(future(1, 2), id))).sweepLater) sweeper.add(keys);
  }
  expect(sweeper.waiting).toBe(1);
  await local.query("COMMIT");
  expect(await sweeper.round(sweeping)).toMatchObject({ rowsSwept: 2, error: null });
  // What was reported is judged again.
  expect(sweeper.waiting).toBeGreaterThan(0);
  await settled(sweeper, sweeping);
  expect(await rows()).toMatchObject([{ id: "c" }]);
});

test.each([false, true])(
  "a row that waits for a local delete is merged beneath its tombstone, and swept (locking first: %s)",
  async (lockFirst) => {
    const { region, put, rows, losers } = await setUp();
    await using _ = region;
    const session = await region.session({ settings });
    await region.db.query("INSERT INTO t VALUES ('a', 'old')");
    const local = await region.db.connect();
    await local.query("BEGIN; DELETE FROM t WHERE id = 'a'");
    // Higher than the row, lower than the tombstone.
    const [old] = await rows();
    const merging = mergeNow(session, put(BigInt(String(old?.["version"])) + 1n), { lockFirst });
    await eventually(async () => (await region.db.query(blockedSql, ["merge 2"])).length > 0);
    await local.query("COMMIT");
    expect(await merging).toMatchObject({ rowsMerged: 1, rowsSwept: 1 });
    expect(await rows()).toEqual([]);
    expect(await losers()).toHaveLength(1);
  },
);

test.each([
  { lockFirst: false, upon: false },
  { lockFirst: false, upon: true },
  { lockFirst: true, upon: false },
  { lockFirst: true, upon: true },
])(
  "a row is compared with what a local writer made of it while the merge waited (%o)",
  async ({ lockFirst, upon }) => {
    const { region, table, put, rows, losers } = await setUp();
    await using _ = region;
    const session = await region.session({ settings });
    await mergeNow(session, put(at(1, 2)));
    const local = await region.db.connect();
    await local.query("BEGIN; UPDATE t SET val = 'local' WHERE id = 'a'");
    const stamp = upon ? { prev: at(1, 2), seen: [at(1, 2)] } : {};
    const incoming = [{ state: row(future(1, 3), stamp), fields: { id: "a", val: "incoming" } }];
    const merging = mergeNow(session, batchOf(table, incoming), { lockFirst });
    await eventually(async () => (await region.db.query(blockedSql, ["merge 2"])).length > 0);
    await local.query("COMMIT");
    await merging;
    expect(await rows()).toMatchObject([{ val: "incoming" }]);
    expect(await losers()).toEqual(["row local"]);
  },
);

test("so is a row that a tombstone waits for", async () => {
  const { region, put, bury, rows, losers } = await setUp();
  await using _ = region;
  const session = await region.session({ settings });
  await mergeNow(session, put(at(1, 2)));
  const local = await region.db.connect();
  await local.query("BEGIN; UPDATE t SET val = 'local' WHERE id = 'a'");
  const merging = mergeNow(session, bury(future(1, 2)));
  await eventually(async () => (await region.db.query(blockedSql, ["merge 2"])).length > 0);
  await local.query("COMMIT");
  expect(await merging).toMatchObject({ rowsSwept: 1 });
  expect(await rows()).toEqual([]);
  expect(await losers()).toEqual(["row local"]);
});

test("the merge yields to a local writer", async () => {
  const { region, put, rows } = await setUp();
  await using _ = region;
  const session = await region.session();
  await region.db.query("INSERT INTO t VALUES ('a', 'old')");
  const local = await region.db.connect();
  await local.query("BEGIN; UPDATE t SET val = 'local' WHERE id = 'a'");
  const failure = await mergeNow(session, put(future(1, 2))).catch((error: unknown) => error);
  expect([sqlStateOf(failure), reactionTo(failure, "merge")]).toEqual(["55P03", "retry"]);
  await local.query("COMMIT");
  await mergeNow(session, put(future(1, 2)));
  expect(await rows()).toMatchObject([{ val: String(future(1, 2)) }]);
});

test("two links that merge the same keys take them in one order", async () => {
  const { region, table, rows } = await setUp();
  await using _ = region;
  const many = (version: bigint, ids: readonly number[]) =>
    batchOf(
      table,
      ids.map((n) => ({ state: row(version), fields: { id: `k${n}`, val: String(version) } })),
    );
  const ids = Array.from({ length: 500 }, (_, n) => n);
  const one = await region.session({ origin: 2, settings });
  const other = await region.session({ origin: 3, settings });
  for (let round = 1; round <= 5; round++) {
    await Promise.all([
      mergeNow(one, many(at(round, 2), ids)),
      mergeNow(other, many(at(round, 3), ids.toReversed())),
    ]);
  }
  expect(new Set((await rows()).map(({ val }) => val))).toEqual(new Set([String(at(5, 3))]));
});

test("COMMIT of a failed transaction is not taken for one; merged rows are marked, the log is not", async () => {
  const { region, put } = await setUp();
  await using _ = region;
  // The slot below is read up to what is flushed.
  const session = await region.session({ settings: { synchronous_commit: "on" } });
  await session.begin();
  await session.client.query("SELECT 1/0").catch(() => undefined);
  await expect(session.commit()).rejects.toThrow(/ROLLBACK/);

  await region.db.query("SELECT pg_create_logical_replication_slot(current_database(), 'pgoutput')");
  await mergeNow(session, put(at(1, 2)));
  await mergeNow(session, put(at(2, 3)));
  await session.transaction(async () => {
    await mergeBatch(session, { tables: [put(at(3, 4))] });
    // A further piece of the same transaction, after the log was written.
    await mergeBatch(session, { tables: [put(at(4, 4), "b")] });
  });
  const changes = await region.db.query(
    `SELECT chr(get_byte(data, 0)) AS kind FROM pg_logical_slot_get_binary_changes(current_database(), NULL, NULL,
       'proto_version', '4', 'publication_names', 'coregent', 'origin', 'none')
      WHERE get_byte(data, 0) IN (ascii('I'), ascii('U'))`,
  );
  // Two conflicts: at(1, 2) and at(2, 3) lost.
  expect(changes.map(({ kind }) => kind)).toEqual(["I", "I"]);
  expect(await region.db.query("SELECT count(*)::int AS n FROM coregent.conflict")).toEqual([{ n: 2 }]);
});

test("a session left over that holds the origin is ended", async () => {
  const { region, put } = await setUp();
  await using _ = region;
  const stale = await region.session();
  const fresh = await region.session();
  await mergeNow(fresh, put(at(1, 2)));
  await expect(stale.transaction(() => Promise.resolve())).rejects.toThrow();
});

test("what was looked for before a merge had waited is looked for again", async () => {
  const { region, rows } = await setUp();
  await using _ = region;
  const session = await region.session({ settings });
  const local = await region.db.connect();
  // It comes and goes there in one transaction: the update finds no row and the look no tombstone, the upsert waits.
  await local.query("BEGIN; INSERT INTO t VALUES ('a', 'local')");
  const upon = batchOf(region.table("t"), [
    { state: row(at(2, 2), { prev: at(1, 2) }), fields: { id: "a", val: "there" } },
  ]);
  const merging = mergeNow(session, upon);
  await eventually(async () => expect(await region.db.query(blockedSql, ["merge 2"])).toHaveLength(1));
  await local.query("DELETE FROM t; COMMIT");
  expect(await merging).toMatchObject({ rowsMerged: 1, rowsSwept: 1 });
  expect(await rows()).toEqual([]);
});
