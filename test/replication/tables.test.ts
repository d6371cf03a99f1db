import type { Client } from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import { eventually } from "../support/eventually.ts";
import { type LocalAgent, Regions } from "./agents.ts";

/** What happens to tables while three regions, each on a server of another version, replicate them. */

let regions: Regions;
let agents: Readonly<Record<string, LocalAgent>>;

beforeAll(async () => {
  regions = await Regions.create({
    regions: { a: 18, b: 17, c: 16 },
    schema: `CREATE TABLE notes (id text PRIMARY KEY, body text NOT NULL DEFAULT '');
             CREATE TABLE other (id int PRIMARY KEY, n int)`,
    // Regions differ in what their sessions show (FAULTS 42).
    before: (name, db) =>
      db.query(
        {
          a: "",
          b: `ALTER DATABASE ${db.name} SET DateStyle = 'German, DMY'; ALTER DATABASE ${db.name} SET TimeZone = 'Pacific/Auckland';
              ALTER DATABASE ${db.name} SET bytea_output = 'escape'; ALTER DATABASE ${db.name} SET extra_float_digits = -15`,
          c: `ALTER DATABASE ${db.name} SET IntervalStyle = 'sql_standard'; ALTER DATABASE ${db.name} SET TimeZone = 'America/Argentina/Buenos_Aires';
              ALTER DATABASE ${db.name} SET lc_monetary = 'C'; ALTER DATABASE ${db.name} SET DateStyle = 'SQL, DMY'`,
        }[name] ?? "",
      ),
  });
  agents = await regions.agents();
}, 240_000);
afterAll(() => regions?.[Symbol.asyncDispose]());

const has = async (region: string, where: string): Promise<boolean> =>
  (await regions.db(region).query(`SELECT FROM ${where}`)).length > 0;
const arrives = (region: string, where: string): Promise<unknown> =>
  eventually(() => has(region, where), { what: `${where} in ${region}`, timeoutMs: 20_000 });
const link = (region: string, peer: string): ReturnType<LocalAgent["link"]> => agents[region]!.link(peer);

/** A transaction in a session of its own. */
const begin = async (region: string, ...statements: string[]): Promise<Client> => {
  const session = await regions.db(region).connect();
  await session.query("BEGIN");
  for (const statement of statements) await session.query(statement);
  return session;
};

test("TRUNCATE against concurrent inserts (FAULTS 40)", async () => {
  await regions.db("a").query("INSERT INTO notes SELECT 'old' || i FROM generate_series(1, 300) i");
  await regions.equal();
  for (const line of [...regions.between("a", "b"), regions.line("c", "a")]) line.cut({ mode: "reset" });
  await regions.db("a").query("TRUNCATE notes");
  await regions.db("b").query("INSERT INTO notes SELECT 'new' || i FROM generate_series(1, 50) i");
  await regions.db("b").query("UPDATE notes SET body = 'later' WHERE id = 'old7'");
  for (const line of [...regions.between("a", "b"), regions.line("c", "a")]) line.heal();
  await regions.equal();
  expect(await regions.db("a").query("SELECT count(*)::int AS n FROM notes")).toEqual([{ n: 51 }]);
});

test("a key changed on both sides (FAULTS 36)", async () => {
  await regions.db("a").query("INSERT INTO notes VALUES ('k', 'first')");
  await arrives("b", "notes WHERE id = 'k'");
  await regions.equal();
  for (const line of regions.between("a", "b")) line.cut({ mode: "reset" });
  await regions.db("a").query("UPDATE notes SET id = 'k a' WHERE id = 'k'");
  await regions.db("b").query("UPDATE notes SET id = 'k b', body = 'second' WHERE id = 'k'");
  for (const line of regions.between("a", "b")) line.heal();
  await regions.equal();
  const keys = await regions.db("c").query("SELECT id FROM notes WHERE id LIKE 'k%' ORDER BY id");
  expect(keys).toEqual([{ id: "k a" }, { id: "k b" }]);
});

test("an update that arrives before its insert, from a third region (FAULTS 37)", async () => {
  regions.line("c", "a").cut({ mode: "reset" });
  await regions.db("a").query("INSERT INTO notes VALUES ('early', 'inserted in a')");
  await arrives("b", "notes WHERE id = 'early'");
  await regions.db("b").query("UPDATE notes SET body = 'updated in b' WHERE id = 'early'");
  await arrives("c", "notes WHERE body = 'updated in b'");
  regions.line("c", "a").heal();
  await regions.equal();
  expect(await has("c", "notes WHERE body = 'updated in b'")).toBe(true);
});

test("the merge yields to a local writer, and the other links keep moving", async () => {
  await regions.db("a").query("INSERT INTO other VALUES (1, 0), (2, 0)");
  await regions.equal();
  const local = await begin("b", "UPDATE other SET n = 1 WHERE id = 2");
  // The merge takes row 1, then waits for row 2; the local transaction then asks for row 1: a cycle.
  await regions.db("a").query("UPDATE other SET n = n + 10");
  await eventually(
    async () =>
      await has("b", "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"),
  );
  // Beyond deadlock_timeout: a merge that still waited would have looked for a cycle already, and left it to us.
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  await local.query("UPDATE other SET n = 1 WHERE id = 1");
  await eventually(() => (link("b", "a").errors.get("retry") ?? 0) > 0);
  await regions.db("c").query("INSERT INTO notes VALUES ('another lane')");
  await arrives("b", "notes WHERE id = 'another lane'");
  expect((await local.query("COMMIT")).command).toBe("COMMIT");
  await regions.equal();
});

test("a table that a peer does not have (FAULTS 29): the lane is alive, and it is copied once it is there", async () => {
  const create = "CREATE TABLE late (id int PRIMARY KEY, v text)";
  await regions
    .db("a")
    .query(`${create}; INSERT INTO late SELECT i, 'before' FROM generate_series(1, 100) i`);
  // As an init that reached region a only.
  await regions.initOnly("a");
  await regions.db("a").query("INSERT INTO late VALUES (1000, 'streamed'); DELETE FROM late WHERE id = 5");
  await regions.db("a").query("INSERT INTO notes VALUES ('beside the misfit')");
  await arrives("b", "notes WHERE id = 'beside the misfit'");
  await arrives("b", "coregent.table_sync WHERE table_name = 'public.late' AND misfit LIKE '%no such%'");
  expect(link("b", "a").misfits.get("public.late")).toContain("no such replicated table");
  for (const name of ["b", "c"]) await regions.db(name).query(create);
  await regions.db("b").query("INSERT INTO late VALUES (2000, 'from b, before it was replicated')");
  await regions.init();
  await regions.equal();
  const rows = await regions.db("c").query("SELECT count(*)::int AS n FROM late");
  expect(rows).toEqual([{ n: 101 }]);
  await eventually(() => link("b", "a").misfits.size === 0);
});

test("a column that a peer does not have, a type that differs (FAULTS 27, 28)", async () => {
  await regions.db("a").query("ALTER TABLE late ADD COLUMN w text");
  await regions.db("a").query("UPDATE late SET w = 'new column' WHERE id <= 10");
  await regions.db("a").query("ALTER TABLE other ALTER COLUMN n TYPE bigint");
  await regions.db("a").query("INSERT INTO other VALUES (50, 5000000000)");
  await regions.db("a").query("INSERT INTO notes VALUES ('beside the columns')");
  for (const name of ["b", "c"]) {
    await arrives(name, "notes WHERE id = 'beside the columns'");
    await arrives(name, `coregent.table_sync WHERE table_name = 'public.late' AND misfit LIKE '%"w"%'`);
    await arrives(name, `coregent.table_sync WHERE table_name = 'public.other' AND misfit LIKE '%"n"%'`);
  }
  for (const name of ["b", "c"]) {
    await regions
      .db(name)
      .query("ALTER TABLE late ADD COLUMN w text; ALTER TABLE other ALTER COLUMN n TYPE bigint");
  }
  await regions.equal(30_000);
  expect(await has("c", "other WHERE n = 5000000000")).toBe(true);
  expect(await has("b", "late WHERE w = 'new column'")).toBe(true);
});

test("columns of users' types are copied as they are streamed, domains too", async () => {
  const create = `
    CREATE DOMAIN short AS varchar(20) CHECK (value <> '');
    CREATE DOMAIN shorter AS short;
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE TYPE pair AS (a int, b mood);
    CREATE TABLE typed (id short PRIMARY KEY, d shorter, many short[], m mood, moods mood[], p pair)`;
  const insert = (id: string): string =>
    `INSERT INTO typed VALUES ('${id}', 'd', '{x,NULL,"y,"}', 'ok', '{sad,NULL}', (1, 'sad'))`;
  for (const name of ["a", "b", "c"]) {
    // The types have other OIDs in every region.
    if (name !== "a") await regions.db(name).query(`CREATE TYPE only_${name} AS ENUM ()`);
    await regions.db(name).query(create);
    await regions.db(name).query(insert(`copied from ${name}`));
  }
  await regions.init();
  for (const name of ["a", "b", "c"]) await regions.db(name).query(insert(`streamed from ${name}`));
  await regions.db("a").query("DELETE FROM typed WHERE id = 'copied from a'");
  await regions.equal();
  expect(await regions.db("c").query("SELECT count(*)::int AS n FROM typed")).toEqual([{ n: 5 }]);
  for (const name of ["a", "b", "c"]) await regions.db(name).query("DROP TABLE typed");
  await regions.init();
});

test("settings of a region's sessions change nothing (FAULTS 42)", async () => {
  const create = `CREATE TABLE shown (id int PRIMARY KEY, t timestamptz, d date, i interval, f float8, r real, y bytea, m money, p point)`;
  for (const name of regions.names) await regions.db(name).query(create);
  await regions.init();
  for (const name of regions.names)
    await regions.db(name).query(
      `INSERT INTO shown SELECT ${regions.id(name)} * 100 + n, to_timestamp(1e9 + n * 86399.123456), date '2024-02-03' + n, make_interval(days => -n, secs => n / 3.0),
         0.1::float8 + n / 3.0::float8, 1::real / (n + 3), sha256(n::text::bytea), (n * 1.5)::numeric::money, point(n / 7.0, n)
         FROM generate_series(1, 20) n`,
    );
  const image = async (name: string): Promise<unknown> => {
    const session = await regions.db(name).connect();
    await session.query(
      "SET extra_float_digits = 1; SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'iso_8601'; SET bytea_output = 'hex'; SET lc_monetary = 'C'",
    );
    return (
      await session.query("SELECT md5(string_agg(s::text, ';' ORDER BY id)) AS md5, count(*) FROM shown s")
    ).rows;
  };
  await regions.equal();
  const expected = await image("a");
  for (const name of ["b", "c"]) expect(await image(name)).toEqual(expected);
  expect(expected).toMatchObject([{ count: "60" }]);
});

test("a region that comes into the configuration gets a link, and one that goes loses it", async () => {
  await regions.add("d", 17);
  await eventually(() => agents["a"]!.status.links.has("d"));
  const create = regions.db("d").query(
    `CREATE TABLE late (id int PRIMARY KEY, v text, w text);
     CREATE TABLE shown (id int PRIMARY KEY, t timestamptz, d date, i interval, f float8, r real, y bytea, m money, p point);
     ALTER TABLE other ALTER COLUMN n TYPE bigint`,
  );
  await create;
  await regions.init();
  await eventually(() => agents["a"]!.link("d").state === "streaming", { timeoutMs: 20_000 });
  await regions.db("d").query("INSERT INTO notes VALUES ('from d')");
  await arrives("a", "notes WHERE id = 'from d'");
  // No agent runs for d.
  await regions.equal(20_000, ["a", "b", "c"]);
  regions.forget("d");
  await eventually(() => !agents["a"]!.status.links.has("d"));
  await regions.equal();
});
