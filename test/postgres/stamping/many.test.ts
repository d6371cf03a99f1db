import { expect, test } from "vitest";
import { ours, tombstoneName } from "../../../src/postgres/install/names.ts";
import { createDatabase, isBlocked, type TestDatabase } from "../../support/database.ts";
import { install, owned, states, tombstones, type State } from "../install/installed.ts";

/** Deletes of so many rows that their tombstones are written by a plain insert, in a subtransaction. */

const count = 2_000;
const key = "1999";

const prepared = async (tables: Parameters<typeof install>[1] = {}): Promise<TestDatabase> => {
  const db = await createDatabase();
  await db.query("CREATE TABLE t (id int PRIMARY KEY, v text, home text)");
  await install(db, tables);
  await fill(db);
  return db;
};

const fill = (db: TestDatabase): Promise<unknown> =>
  db.query(
    `INSERT INTO t SELECT i, repeat('x', 100), 'moldova' FROM generate_series(1, ${count}) AS i ORDER BY i`,
  );

const dead = (db: TestDatabase): Promise<Map<string, State>> => tombstones(db, "public.t");

const relation = ours(tombstoneName("public", "t"));

/** Each tombstone stands upon the state that its key held. */
const expectUpon = (after: ReadonlyMap<string, State>, before: ReadonlyMap<string, State>): void => {
  const wrong = [...before].filter(([id, { version }]) => {
    const found = after.get(id);
    return found?.prev !== version || found.version <= version;
  });
  expect(wrong).toEqual([]);
};

/** Begins to delete all rows while another transaction has entombed a key, as a merge would, with a version from afar. */
const deleteBeside = async (db: TestDatabase, version: bigint, level = "READ COMMITTED") => {
  const [merging, deleting] = [await db.connect(), await db.connect()];
  const { rows } = await deleting.query<{ pid: number }>("SELECT pg_backend_pid() AS pid");
  // What the trigger reads again is on disk by then.
  await deleting.query(`SET work_mem = '64kB'; BEGIN ISOLATION LEVEL ${level}; SELECT FROM t LIMIT 1`);
  await merging.query(`BEGIN; SET LOCAL session_replication_role = replica;
    INSERT INTO ${relation} (id, cg_version) VALUES (${key}, ${version})`);
  const deleted = deleting.query("DELETE FROM t");
  const outcome = deleted.then(
    () => deleting.query("COMMIT").then(() => null),
    async (error: unknown) => {
      await deleting.query("ROLLBACK");
      return error;
    },
  );
  await isBlocked(db, rows[0]?.pid ?? 0);
  await merging.query("COMMIT");
  return outcome;
};

const future = (8_000_000_000_000_000n << 10n) | 7n;

test.each([
  ["lower", 7n],
  ["higher", future],
] as const)("another transaction entombs one of the keys meanwhile, by a %s version", async (_, version) => {
  await using db = await prepared();
  const rows = await states(db, "t");
  expect(await deleteBeside(db, version)).toBeNull();
  const after = await dead(db);
  expect(after.size).toBe(count);
  const theirs = after.get(key);
  expect(theirs?.version).toBeGreaterThan(version);
  expect(theirs?.version).toBeGreaterThan(rows.get(key)?.version ?? 0n);
  expect((theirs?.version ?? 0n) & 1023n).toBe(3n);
  if (version === future) {
    expect(theirs).toMatchObject({ prev: version, seen: [version] });
    rows.delete(key);
  }
  expectUpon(after, rows);
  expect(await db.query("SELECT FROM t")).toEqual([]);
});

test.each(["REPEATABLE READ", "SERIALIZABLE"])("in %s that is refused with 40001", async (level) => {
  await using db = await prepared();
  expect(await deleteBeside(db, 7n, level)).toMatchObject({ code: "40001" });
  expect((await dead(db)).size).toBe(1);
  expect((await states(db, "t")).size).toBe(count);
  await db.query(`BEGIN ISOLATION LEVEL ${level}; DELETE FROM t; COMMIT`);
  expect((await dead(db)).size).toBe(count);
});

test("two sessions delete the same rows, and one of them inserts them again and deletes them", async () => {
  await using db = await prepared();
  const [one, two] = [await db.connect(), await db.connect()];
  const { rows } = await two.query<{ pid: number }>("SELECT pg_backend_pid() AS pid");
  await one.query("BEGIN; DELETE FROM t");
  const second = two.query("DELETE FROM t");
  await isBlocked(db, rows[0]?.pid ?? 0);
  await one.query("COMMIT");
  expect((await second).rowCount).toBe(0);
  const first = await dead(db);
  expect(first.size).toBe(count);
  await fill(db);
  const again = await states(db, "t");
  expectUpon(again, first);
  await db.query("DELETE FROM t");
  expectUpon(await dead(db), again);
});

test("only some keys have tombstones, of which some are higher than their rows", async () => {
  await using db = await prepared();
  await db.query("DELETE FROM t WHERE id % 3 = 0");
  await db.query("INSERT INTO t SELECT i FROM generate_series(3, 2000, 3) AS i");
  await db.query(`SET session_replication_role = replica;
    UPDATE ${relation} SET cg_version = ${future} WHERE id % 6 = 0; RESET session_replication_role`);
  const [rows, graves] = [await states(db, "t"), await dead(db)];
  await db.query("DELETE FROM t");
  const after = await dead(db);
  const expected = new Map([...rows].map(([id, row]) => [id, Number(id) % 6 === 0 ? graves.get(id)! : row]));
  expect(after.size).toBe(count);
  expectUpon(after, expected);
  expect(after.get("6")?.seen).toEqual([future]);
});

test.each([
  ["owned here", "moldova", true],
  ["owned elsewhere", "argentina", false],
] as const)("rows %s, all of them once more", async (_, owner, authority) => {
  await using db = await prepared({ tables: [owned("public.t", "home")] });
  for (const round of [1, 2]) {
    if (round === 2) await fill(db);
    await db.query(`UPDATE t SET home = '${owner}'`);
    const rows = await states(db, "t");
    await db.query("DELETE FROM t");
    const after = await dead(db);
    expect(after.size).toBe(count);
    expectUpon(after, rows);
    for (const [id, { base, version }] of after) {
      if (base !== (authority ? version : rows.get(id)?.base)) throw new Error(`the base of key ${id}`);
    }
  }
});

test("a savepoint that is rolled back takes the tombstones along", async () => {
  await using db = await prepared();
  await db.query("BEGIN; SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; DELETE FROM t WHERE id <= 3; COMMIT");
  expect((await dead(db)).size).toBe(3);
  expect((await states(db, "t")).size).toBe(count - 3);
});

test("TRUNCATE beside a transaction that entombs a key", async () => {
  await using db = await prepared();
  const rows = await states(db, "t");
  const [merging, truncating] = [await db.connect(), await db.connect()];
  const { rows: session } = await truncating.query<{ pid: number }>("SELECT pg_backend_pid() AS pid");
  await merging.query(`BEGIN; SET LOCAL session_replication_role = replica;
    INSERT INTO ${relation} (id, cg_version) VALUES (${key}, ${future})`);
  const done = truncating.query("TRUNCATE t");
  await isBlocked(db, session[0]?.pid ?? 0);
  await merging.query("COMMIT");
  await done;
  const after = await dead(db);
  expect(after.size).toBe(count);
  // Which outranks the row already.
  expect(after.get(key)?.version).toBe(future);
  rows.delete(key);
  expectUpon(after, rows);
});
