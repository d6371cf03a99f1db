import { describe, expect, test } from "vitest";
import { createDatabase, eventually, isBlocked, type TestDatabase } from "../../support/database.ts";
import { install, states, tombstones } from "../install/installed.ts";

/** The relation between the row and the tombstone of one key. */
const both = async (db: TestDatabase, id = "1") => {
  const row = (await states(db, "t")).get(id);
  const dead = (await tombstones(db, "public.t")).get(id);
  return { row, dead };
};

const expectUpon = async (db: TestDatabase, id = "1"): Promise<void> => {
  const { row, dead } = await both(db, id);
  expect(dead).toBeDefined();
  expect(row?.prev).toBe(dead?.version);
  expect(row?.version).toBeGreaterThan(dead?.version ?? 0n);
};

const pidOfBusy = async (db: TestDatabase, query: string): Promise<number> => {
  let pid = 0;
  await eventually(async () => {
    const rows = await db.query<{ pid: number }>(
      "SELECT pid FROM pg_stat_activity WHERE query = $1 AND state = 'active' AND datname = current_database()",
      [query],
    );
    pid = rows[0]?.pid ?? 0;
    return pid !== 0;
  });
  return pid;
};

const kinds = [
  ["plain", "CREATE TABLE t (id int PRIMARY KEY, v text)"],
  [
    "partitioned",
    `CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
     CREATE TABLE t_low PARTITION OF t FOR VALUES FROM (0) TO (4);
     CREATE TABLE t_high PARTITION OF t FOR VALUES FROM (4) TO (99)`,
  ],
] as const;

describe.each(kinds)("%s", (_, table) => {
  const prepared = async (): Promise<TestDatabase> => {
    const db = await createDatabase();
    await db.query(table);
    await install(db);
    await db.query("INSERT INTO t VALUES (1, 'one')");
    return db;
  };

  test("an insert that was stamped before it waited for a delete stands above the tombstone", async () => {
    await using db = await prepared();
    const [one, two] = [await db.connect(), await db.connect()];
    await one.query("BEGIN; DELETE FROM t");
    const inserted = two.query("INSERT INTO t VALUES (1, 'new')");
    await isBlocked(db, await pidOfBusy(db, "INSERT INTO t VALUES (1, 'new')"));
    // The tombstone is far ahead of the insert's stamp.
    await one.query(
      `SET LOCAL coregent.clock_offset_us = '3600000000'; SET LOCAL coregent.stamp_above = '';
       INSERT INTO t VALUES (1); DELETE FROM t; COMMIT`,
    );
    await inserted;
    const tombstone = (await both(db)).dead?.version ?? 0n;
    expect(Number(tombstone >> 10n)).toBeGreaterThan((Date.now() + 1_800_000) * 1000);
    await expectUpon(db);
  });

  test.each(["REPEATABLE READ", "SERIALIZABLE"])(
    "in %s, where the tombstone cannot be seen, such an insert is refused with 40001",
    async (level) => {
      await using db = await prepared();
      const [one, two] = [await db.connect(), await db.connect()];
      await two.query(`BEGIN ISOLATION LEVEL ${level}; SELECT 1 FROM t`);
      await one.query("DELETE FROM t");
      await expect(two.query("INSERT INTO t VALUES (1, 'new')")).rejects.toMatchObject({ code: "40001" });
      await two.query(`ROLLBACK; BEGIN ISOLATION LEVEL ${level}; INSERT INTO t VALUES (1, 'new'), (2, 'x');
        UPDATE t SET id = 5 WHERE id = 2; COMMIT`);
      await expectUpon(db);
      // What the probe wrote is undone.
      expect([...(await tombstones(db, "public.t")).keys()].sort((a, b) => a.localeCompare(b))).toEqual([
        "1",
        "2",
      ]);
    },
  );

  test("in READ UNCOMMITTED, which sees it, none is", async () => {
    await using db = await prepared();
    const [one, two] = [await db.connect(), await db.connect()];
    await two.query("BEGIN ISOLATION LEVEL READ UNCOMMITTED; SELECT 1 FROM t");
    await one.query("DELETE FROM t");
    await two.query("INSERT INTO t VALUES (2, 'two'); UPDATE t SET id = 1 WHERE id = 2; COMMIT");
    await expectUpon(db);
  });

  test("so is a change of key onto such a key", async () => {
    await using db = await prepared();
    await db.query("INSERT INTO t VALUES (2, 'two')");
    const [one, two] = [await db.connect(), await db.connect()];
    await two.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM t");
    await one.query("DELETE FROM t WHERE id = 1");
    await expect(two.query("UPDATE t SET id = 1 WHERE id = 2")).rejects.toMatchObject({ code: "40001" });
    await two.query("ROLLBACK");
  });

  test.each([
    [
      "the insert reads the delete",
      "WITH gone AS (DELETE FROM t RETURNING *) INSERT INTO t SELECT id, 'new' FROM gone",
    ],
    [
      "the insert ends before the delete",
      "WITH gone AS (DELETE FROM t RETURNING *), came AS (INSERT INTO t SELECT id, 'new' FROM gone LIMIT 1) SELECT",
    ],
    [
      "in a MERGE",
      `MERGE INTO t USING (VALUES (1, 1), (0, 1)) s(old, new) ON t.id = s.old
         WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (s.new, 'new')`,
    ],
  ])("one statement deletes and inserts a key: %s", async (_, sql) => {
    await using db = await prepared();
    const before = (await both(db)).row;
    await db.query(sql);
    await expectUpon(db);
    expect((await both(db)).dead?.prev).toBe(before?.version);
    expect(await db.query("SELECT v FROM t")).toEqual([{ v: "new" }]);
  });

  test("keys shift in one statement: each row stands upon what left its key", async () => {
    await using db = await prepared();
    await db.query("DELETE FROM t; INSERT INTO t VALUES (3, 'c'), (2, 'b'), (1, 'a')");
    const before = await states(db, "t");
    await db.query("UPDATE t SET id = id + 1");
    const after = await states(db, "t");
    const dead = await tombstones(db, "public.t");
    expect(await db.query("SELECT id, v FROM t ORDER BY 1")).toEqual([
      { id: 2, v: "a" },
      { id: 3, v: "b" },
      { id: 4, v: "c" },
    ]);
    expect([...dead.keys()].sort((a, b) => a.localeCompare(b))).toEqual(["1", "2", "3"]);
    for (const id of ["1", "2", "3"]) expect(dead.get(id)?.prev).toBe(before.get(id)?.version);
    for (const id of ["2", "3"]) {
      expect(after.get(id)?.prev).toBe(dead.get(id)?.version);
      expect(after.get(id)?.version).toBeGreaterThan(dead.get(id)?.version ?? 0n);
    }
    expect(after.get("4")).toMatchObject({ prev: 0n, seen: null });
  });

  test("a swap through a third key, and a savepoint rolled back", async () => {
    await using db = await prepared();
    await db.query("INSERT INTO t VALUES (2, 'two')");
    await db.query(`BEGIN; UPDATE t SET id = 9 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2;
      UPDATE t SET id = 2 WHERE id = 9; SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; COMMIT`);
    await expectUpon(db, "1");
    await expectUpon(db, "2");
    expect((await both(db, "9")).row).toBeUndefined();
    expect(await db.query("SELECT id, v FROM t ORDER BY 1")).toEqual([
      { id: 1, v: "two" },
      { id: 2, v: "one" },
    ]);
  });

  test("TRUNCATE waits for writers, writes a tombstone for every key, and needs READ COMMITTED", async () => {
    await using db = await prepared();
    const [one, two] = [await db.connect(), await db.connect()];
    await one.query("BEGIN; INSERT INTO t VALUES (5, 'late')");
    const done = two.query("TRUNCATE t");
    await isBlocked(db, await pidOfBusy(db, "TRUNCATE t"));
    await one.query("COMMIT");
    await done;
    expect([...(await tombstones(db, "public.t")).keys()]).toEqual(["1", "5"]);
    await expect(one.query("BEGIN ISOLATION LEVEL REPEATABLE READ; TRUNCATE t")).rejects.toThrow(
      /TRUNCATE of the replicated table public.t\w* needs isolation level READ COMMITTED/,
    );
    await one.query("ROLLBACK; INSERT INTO t VALUES (1, 'again')");
    await expectUpon(db);
  });
});

test("a partition that is truncated by itself, also one that came later, tells its keys", async () => {
  await using db = await createDatabase();
  await db.query(kinds[1][1]);
  await install(db);
  await db.query("INSERT INTO t VALUES (1), (2), (4); TRUNCATE t_low");
  expect([...(await tombstones(db, "public.t")).keys()]).toEqual(["1", "2"]);
  await db.query(
    "CREATE TABLE t_later PARTITION OF t FOR VALUES FROM (99) TO (199); INSERT INTO t VALUES (100)",
  );
  await db.query("DELETE FROM t_later; INSERT INTO t_later VALUES (101)");
  expect([...(await tombstones(db, "public.t")).keys()]).toEqual(["1", "2", "100"]);
  const report = await install(db);
  expect(report.tables).toEqual([
    { name: "public.t", change: "repaired", details: ["truncate trigger of partition t_later"] },
  ]);
  await db.query("TRUNCATE t_later");
  expect([...(await tombstones(db, "public.t")).keys()]).toEqual(["1", "2", "100", "101"]);
  const before = (await tombstones(db, "public.t")).get("1");
  await db.query("TRUNCATE t");
  expect((await tombstones(db, "public.t")).get("1")).toEqual(before);
  expect((await tombstones(db, "public.t")).has("4")).toBe(true);
});

test("an upsert that waited for an insert and its delete", async () => {
  await using db = await createDatabase();
  await db.query(kinds[0][1]);
  await install(db);
  const [one, two] = [await db.connect(), await db.connect()];
  await one.query("BEGIN; INSERT INTO t VALUES (1, 'one')");
  const upsert = "INSERT INTO t VALUES (1, 'two') ON CONFLICT (id) DO UPDATE SET v = excluded.v";
  const second = two.query(upsert);
  await isBlocked(db, await pidOfBusy(db, upsert));
  await one.query("DELETE FROM t; COMMIT");
  await second;
  await expectUpon(db);
});
