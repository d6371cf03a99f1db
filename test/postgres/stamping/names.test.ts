import { expect, test } from "vitest";
import { list, identifier } from "../../../src/postgres/identifiers.ts";
import { createDatabase, isBlocked, type TestDatabase } from "../../support/database.ts";
import { takenNames } from "../../support/column-names.ts";
import { install, owned, states, tombstones, type State } from "../install/installed.ts";

/** Users' columns may be called whatever our functions call their variables and columns. */

/** More than are entombed without a subtransaction. */
const many = 600;
/** Where each row has triggers of its own. */
const few = 20;
const columns = takenNames.map((name) => `${identifier(name)} text`).join(", ");
const asKey = `home text, val int, ${columns}, PRIMARY KEY (${list(takenNames)})`;

type States = ReadonlyMap<string, State>;

/** Each state of `after` that is not in `before` stands upon what its key held. */
const expectUpon = (after: States, before: States, held: States): void => {
  const wrong = [...after].filter(([key, { version, prev }]) => {
    const replaced = held.get(key)?.version ?? 0n;
    return before.get(key)?.version !== version && (prev !== replaced || version < replaced);
  });
  expect(wrong).toEqual([]);
};

const fill = (key: string, count: number): string => {
  const others = takenNames.filter((name) => name !== key);
  return `INSERT INTO t (home, ${list([key, ...others])})
    SELECT ${Array.from({ length: others.length + 2 }, (_, n) => (n === 0 ? "'moldova'" : "i::text")).join(", ")}
      FROM generate_series(1, ${count}) AS i ON CONFLICT DO NOTHING`;
};

/** Inserts again what a statement deletes of this key, before our triggers come to it. */
const comesBack = (key: string): string => `
  CREATE FUNCTION back() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    INSERT INTO t SELECT (OLD).*;
    RETURN NULL;
  END $$;
  CREATE TRIGGER back AFTER DELETE ON t FOR EACH ROW WHEN (OLD.${identifier(key)} = '9') EXECUTE FUNCTION back()`;

/** Every way of writing; `key`: the column that names a row. */
const writeAll = async (db: TestDatabase, key: string, count: number): Promise<void> => {
  const name = identifier(key);
  const rows = (): Promise<States> => states(db, "t", [key]);
  const dead = (): Promise<States> => tombstones(db, "public.t", [key]);
  const write = async (sql: string): Promise<void> => {
    const [before, graves] = [await rows(), await dead()];
    await db.query(sql);
    const [after, buried] = [await rows(), await dead()];
    const held = new Map([...graves, ...before]);
    expectUpon(buried, graves, held);
    expectUpon(after, before, new Map([...held, ...buried]));
  };
  await write(fill(key, count));
  await write("UPDATE t SET val = 1");
  await write(`DELETE FROM t WHERE ${name} IN ('1', '2')`);
  await write(fill(key, count));
  expect((await rows()).get("1")?.prev).toBe((await dead()).get("1")?.version);
  await write(`UPDATE t SET ${name} = 'moved' WHERE ${name} = '3'`);
  await write(`UPDATE t SET ${name} = '3' WHERE ${name} = 'moved'`);
  await write(comesBack(key));
  await write(`DELETE FROM t WHERE ${name} IN ('8', '9')`);
  expect([...(await rows()).keys()].filter((id) => ["8", "9"].includes(id))).toEqual(["9"]);
  expect((await rows()).get("9")?.prev).toBe((await dead()).get("9")?.version);
  await write("DROP TRIGGER back ON t");
  await write("DELETE FROM t");
  expect((await dead()).size).toBe(count + 1);
  await write(`BEGIN ISOLATION LEVEL REPEATABLE READ; ${fill(key, count)}; COMMIT`);
  await write("TRUNCATE t");
  await write(fill(key, count));
  await write("BEGIN ISOLATION LEVEL REPEATABLE READ; DELETE FROM t; COMMIT");
  expect([(await rows()).size, (await dead()).size]).toEqual([0, count + 1]);
};

const parted = `CREATE TABLE t (${asKey}) PARTITION BY LIST (role);
  CREATE TABLE t_moved PARTITION OF t FOR VALUES IN ('moved'); CREATE TABLE t_rest PARTITION OF t DEFAULT`;

test.each([
  ["in the key", `CREATE TABLE t (${asKey})`, null, "role"],
  ["in the key of an owned table", `CREATE TABLE t (${asKey})`, "home", "role"],
  ["in the key of a partitioned table", parted, null, "role"],
  ["in the key of a partitioned, owned table", parted, "home", "role"],
  ["not in the key", `CREATE TABLE t (id text PRIMARY KEY, home text, val int, ${columns})`, null, "id"],
  [
    "not in the key, and one is the owner",
    `CREATE TABLE t (id text PRIMARY KEY, home text, val int, ${columns})`,
    "authority",
    "id",
  ],
] as const)("columns that are called as ours are, %s", async (_, schema, owner, key) => {
  await using db = await createDatabase();
  await db.query(schema);
  await install(db, owner === null ? {} : { tables: [owned("public.t", owner)] });
  await writeAll(db, key, schema === parted ? few : many);
});

/** A transaction entombs a key while a delete of many runs: the unique violation is caught, and `sqlstate` is a variable there. */
test("columns that are called as ours are, beside a transaction that entombs one of the keys", async () => {
  await using db = await createDatabase();
  await db.query(`CREATE TABLE t (${asKey})`);
  await install(db);
  await db.query(fill("role", many));
  const [other, deleting] = [await db.connect(), await db.connect()];
  await deleting.query("BEGIN ISOLATION LEVEL READ COMMITTED");
  const [tombstone] = await db.query<{ name: string }>(
    "SELECT quote_ident(tombstone) AS name FROM coregent.replicated_table WHERE name = 'public.t'",
  );
  const { rows } = await deleting.query<{ pid: number }>("SELECT pg_backend_pid() AS pid");
  await other.query(`BEGIN; SET LOCAL session_replication_role = replica;
    INSERT INTO coregent.${tombstone?.name} (${list(takenNames)}, cg_version)
    SELECT ${takenNames.map(() => `'${many}'`).join(", ")}, 7`);
  const deleted = deleting.query("DELETE FROM t");
  await isBlocked(db, rows[0]?.pid ?? 0);
  await other.query("COMMIT");
  await deleted;
  await deleting.query("COMMIT");
  expect((await tombstones(db, "public.t", ["role"])).size).toBe(many);
});
