import { expect, test } from "vitest";
import { readTables } from "../../../src/postgres/catalog.ts";
import { checkRegion } from "../../../src/postgres/check.ts";
import { connect } from "../../../src/postgres/client.ts";
import { installRegion } from "../../../src/postgres/install/region.ts";
import { createDatabase, eventually, uniqueName } from "../../support/database.ts";
import { install, moldova, owned, region, states, tombstones, topologyOf } from "./installed.ts";

test("rows that are there get one baseline; a second run changes nothing", async () => {
  await using db = await createDatabase();
  await db.query("CREATE TABLE w (id int PRIMARY KEY, a text); INSERT INTO w VALUES (1, 'x'), (2, 'y')");
  await db.query("CREATE TABLE no_key (a int)");
  const [before] = await db.query("SELECT pg_relation_filenode('w') AS node");
  const report = await install(db);
  expect(report.tables.map((each) => [each.name, each.change])).toEqual([
    ["coregent.conflict", "taken up"],
    ["coregent.idempotency", "taken up"],
    ["coregent.pulse", "taken up"],
    ["public.w", "taken up"],
  ]);
  expect(await db.query("SELECT pg_relation_filenode('w') AS node")).toEqual([before]);
  const rows = await states(db, "w");
  const [first, second] = [...rows.values()];
  expect(first).toEqual(second);
  expect(first).toMatchObject({ prev: 0n, seen: null });
  expect((first?.version ?? 0n) & 1023n).toBe(3n);
  expect(await db.query("SELECT origin, table_name, kind FROM coregent.table_sync ORDER BY 2")).toEqual([
    { origin: 7, table_name: "coregent.conflict", kind: "own" },
    { origin: 7, table_name: "coregent.idempotency", kind: "own" },
    { origin: 7, table_name: "coregent.pulse", kind: "own" },
    { origin: 7, table_name: "public.w", kind: "own" },
  ]);
  const again = await install(db);
  expect(again).toMatchObject({ migrations: [], functionsReplaced: false, tables: [] });
  expect(again.unchanged).toEqual([
    "coregent.conflict",
    "coregent.idempotency",
    "coregent.pulse",
    "public.w",
  ]);
  expect((await readTables(await db.connect())).map((table) => table.name)).toEqual([
    "coregent.conflict",
    "coregent.idempotency",
    "coregent.pulse",
    "public.w",
  ]);
});

test("tables that came are taken up, tables that went are released", async () => {
  await using db = await createDatabase();
  await db.query(
    "CREATE TABLE w (id int PRIMARY KEY); CREATE SCHEMA other; CREATE TABLE other.z (id int PRIMARY KEY)",
  );
  await install(db, { schemas: ["public", "other"] });
  await db.query("CREATE TABLE n (id int PRIMARY KEY); DROP TABLE w");
  const report = await install(db);
  expect(report.tables.map((each) => [each.name, each.change])).toEqual([
    ["other.z", "released"],
    ["public.w", "released"],
    ["public.n", "taken up"],
  ]);
  expect(
    await db.query(
      "SELECT attname FROM pg_attribute WHERE attrelid = 'other.z'::regclass AND attname LIKE 'cg%'",
    ),
  ).toEqual([]);
  expect(
    await db.query(
      "SELECT relname FROM pg_class WHERE relname LIKE 'tombstone%' AND relkind = 'r' ORDER BY 1",
    ),
  ).toHaveLength(4);
  expect(await db.query("SELECT FROM pg_proc WHERE proname LIKE 'deleted%'")).toHaveLength(4);
  expect(await db.query("SELECT DISTINCT table_name FROM coregent.table_sync ORDER BY 1")).toEqual([
    { table_name: "coregent.conflict" },
    { table_name: "coregent.idempotency" },
    { table_name: "coregent.pulse" },
    { table_name: "public.n" },
  ]);
});

test("what was dropped or disabled by hand is made again, and named", async () => {
  await using db = await createDatabase();
  await db.query("CREATE TABLE w (id int PRIMARY KEY)");
  await install(db);
  await db.query(`DROP TRIGGER "~coregent_insert" ON w; ALTER TABLE w DISABLE TRIGGER "~coregent_deleted";
    ALTER PUBLICATION coregent DROP TABLE w`);
  const [fn] = await db.query<{ name: string }>(
    "SELECT proname AS name FROM pg_proc WHERE proname LIKE 'deleted\\_w\\_%'",
  );
  await db.query(`ALTER FUNCTION coregent.${fn?.name} RESET ALL`);
  const report = await install(db);
  expect(report.tables).toEqual([
    {
      name: "public.w",
      change: "repaired",
      details: [
        "publication",
        "trigger ~coregent_insert",
        "trigger ~coregent_deleted, which is disabled",
        `function ${fn?.name}`,
      ],
    },
  ]);
  expect(await db.query("SELECT kind FROM coregent.table_sync WHERE table_name = 'public.w'")).toEqual([
    { kind: "full" },
  ]);
  expect((await install(db)).tables).toEqual([]);
  await db.query("INSERT INTO w VALUES (1); DELETE FROM w");
  expect(await tombstones(db, "public.w")).toHaveLength(1);
});

test("an owner column that comes keeps the states; one that goes, or another key, begins anew", async () => {
  await using db = await createDatabase();
  await db.query("CREATE TABLE w (id int PRIMARY KEY, alt int NOT NULL, home text)");
  await install(db);
  await db.query("INSERT INTO w VALUES (1, 10, 'moldova'), (2, 20, 'moldova'); DELETE FROM w WHERE id = 2");
  const before = (await states(db, "w")).get("1");
  expect((await install(db, { tables: [owned("public.w", "home")] })).tables).toMatchObject([
    { change: "repaired" },
  ]);
  expect((await states(db, "w")).get("1")).toEqual({ ...before, base: 0n });
  expect((await tombstones(db, "public.w")).get("2")?.base).toBe(0n);
  expect((await install(db)).tables).toMatchObject([{ change: "taken up anew" }]);
  await db.query("ALTER TABLE w DROP CONSTRAINT w_pkey, ADD PRIMARY KEY (alt)");
  expect((await install(db)).tables).toMatchObject([{ change: "taken up anew" }]);
  await db.query("DELETE FROM w");
  expect([...(await tombstones(db, "public.w", ["alt"])).keys()]).toEqual(["10"]);
});

test("a database of another region or cluster is refused and left as it is", async () => {
  await using db = await createDatabase();
  await install(db);
  const client = await db.connect();
  const other = region("argentina", 7);
  await expect(installRegion(client, { topology: topologyOf(), region: other })).rejects.toThrow(
    "This database is region moldova (id 3) of cluster weightbook, not argentina (id 7) of weightbook",
  );
  await expect(
    installRegion(client, { topology: topologyOf({ cluster: "other" }), region: moldova }),
  ).rejects.toThrow("not moldova (id 3) of other");
  expect(await db.query("SELECT cluster, region_id FROM coregent.local")).toEqual([
    { cluster: "weightbook", region_id: 3 },
  ]);
});

test("a writer that holds the table makes the installer wait and try again, not fail", async () => {
  await using db = await createDatabase();
  await db.query("CREATE TABLE w (id int PRIMARY KEY)");
  const writer = await db.connect();
  await writer.query("BEGIN; INSERT INTO w VALUES (1)");
  const installer = await db.connect();
  const done = installRegion(installer, { topology: topologyOf(), region: moldova, lockTimeoutMs: 50 });
  const pid = (await writer.query("SELECT pg_backend_pid() AS pid")).rows[0].pid as number;
  let waited = 0;
  await eventually(async () => {
    const rows = await db.query("SELECT FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))", [pid]);
    waited += rows.length;
    return waited >= 3;
  });
  await writer.query("COMMIT");
  expect((await done).tables).toContainEqual({ name: "public.w", change: "taken up", details: [] });
  expect(await states(db, "w")).toHaveLength(1);
});

test.each(["~coregent_deleted", "~coregent_truncate"])(
  "%s disabled on a partition is enabled again",
  async (name) => {
    await using db = await createDatabase();
    await db.query(`CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)`);
    await install(db);
    await db.query(`ALTER TABLE p1 DISABLE TRIGGER "${name}"`);
    expect((await install(db)).tables).toMatchObject([{ name: "public.p", change: "repaired" }]);
    expect((await install(db)).tables).toEqual([]);
    await db.query("INSERT INTO p VALUES (1), (2); DELETE FROM p1 WHERE id = 1; TRUNCATE p1");
    expect(await tombstones(db, "public.p")).toHaveLength(2);
  },
);

test("a role that is no superuser installs, and what it installed works for another", async () => {
  await using db = await createDatabase();
  const [owner, installer, app] = [uniqueName("owner"), uniqueName("installer"), uniqueName("app")];
  await db.query(`CREATE ROLE ${owner}; CREATE ROLE ${installer} LOGIN REPLICATION IN ROLE ${owner}; CREATE ROLE ${app};
    GRANT CREATE ON DATABASE ${db.name} TO ${installer}; GRANT CREATE, USAGE ON SCHEMA public TO ${owner};
    GRANT SET ON PARAMETER session_replication_role TO ${installer};
    SET ROLE ${owner}; CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY REFERENCES t ON DELETE CASCADE);
    GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON t, c TO ${app}; RESET ROLE`);
  const url = new URL(db.url);
  url.username = installer;
  const client = await connect(url.href, { applicationName: "test" });
  try {
    await installRegion(client, { topology: topologyOf(), region: moldova });
    expect((await installRegion(client, { topology: topologyOf(), region: moldova })).tables).toEqual([]);
  } finally {
    await client.end();
  }
  await db.query(`SET ROLE ${app}; INSERT INTO t VALUES (1), (2); INSERT INTO c VALUES (1), (2); DELETE FROM t WHERE id = 1;
    INSERT INTO t VALUES (1); TRUNCATE t, c; RESET ROLE`);
  expect(await tombstones(db, "public.c")).toHaveLength(2);
  await db.query(`INSERT INTO t VALUES (1)`);
  expect((await states(db, "t")).get("1")?.prev).toBe((await tombstones(db, "public.t")).get("1")?.version);
  await db.query(`DROP PUBLICATION coregent; DROP SCHEMA coregent CASCADE;
    DROP OWNED BY ${owner}, ${installer}, ${app} CASCADE; DROP ROLE ${owner}, ${installer}, ${app}`);
});

test("a renamed table, and a renamed key, stamp again after the next run; states are kept", async () => {
  await using db = await createDatabase();
  await db.query("CREATE TABLE w (id int PRIMARY KEY, v text)");
  await install(db);
  await db.query("INSERT INTO w VALUES (1), (2)");
  const before = await states(db, "w");
  await db.query("ALTER TABLE w RENAME TO n");
  const findings = await checkRegion(await db.connect(), moldova, topologyOf(), { drift: false });
  expect(findings.filter((finding) => finding.code === "column_clash")).toEqual([]);
  expect((await install(db)).tables.map((each) => [each.name, each.change])).toEqual([
    ["public.w", "released"],
    ["public.n", "taken up"],
  ]);
  expect(await states(db, "n")).toEqual(before);
  await db.query("ALTER TABLE n RENAME COLUMN id TO key");
  expect((await install(db)).tables).toMatchObject([{ name: "public.n", change: "taken up anew" }]);
  await db.query(
    "INSERT INTO n VALUES (3); UPDATE n SET v = 'x'; DELETE FROM n WHERE key = 3; UPDATE n SET key = 4 WHERE key = 1",
  );
  expect([...(await tombstones(db, "public.n", ["key"])).keys()]).toEqual(["3", "1"]);
  expect((await install(db)).tables).toEqual([]);
});
