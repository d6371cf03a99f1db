import { expect, test } from "vitest";
import { tryAgentLock } from "../../../src/postgres/agent-lock.ts";
import { initCluster } from "../../../src/postgres/init.ts";
import { uninstallCluster } from "../../../src/postgres/uninstall.ts";
import { createDatabase, dropOrigins, uniqueName, type TestDatabase } from "../../support/database.ts";
import { owned, region, topologyOf } from "./installed.ts";

const schema = `
CREATE SCHEMA "My schema";
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE w (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), a text NOT NULL, home text, u int UNIQUE);
CREATE TABLE "My schema"."a""b" ("K""1" mood, k2 varchar(20) COLLATE "C", v int, PRIMARY KEY (k2, "K""1"));
CREATE TABLE p (id int, at date, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE p2 PARTITION OF p FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
INSERT INTO w (a, home) SELECT 'x' || i, 'moldova' FROM generate_series(1, 10) i;
INSERT INTO p VALUES (1, '2020-03-03', 'a'), (2, '2021-03-03', 'b');
`;

/** Everything that an installation could leave behind, as text; dropped columns are not visible to anybody. */
const catalogOf = async (db: TestDatabase, cluster: string): Promise<unknown> => {
  const [row] = await db.query<{ catalog: Record<string, unknown> }>(
    `SELECT json_build_object(
      'schemas', (SELECT json_agg(nspname) FROM pg_namespace WHERE nspname !~ '^pg_(toast|temp)'),
      'relations', (SELECT json_agg(concat(relnamespace::regnamespace, '.', relname, ' ', relkind, ' ', relacl, relrowsecurity))
                      FROM pg_class WHERE relnamespace::regnamespace::text !~ '^(pg_|information_schema)'),
      'columns', (SELECT json_agg(concat(attrelid::regclass, '.', attname, ' ', format_type(atttypid, atttypmod), attnotnull, atthasdef) ORDER BY attrelid::regclass::text, attnum)
                    FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
                   WHERE attnum > 0 AND NOT attisdropped AND c.relnamespace::regnamespace::text !~ '^(pg_|information_schema)'),
      'triggers', (SELECT json_agg(concat(tgrelid::regclass, tgname)) FROM pg_trigger WHERE NOT tgisinternal),
      'constraints', (SELECT json_agg(concat(conrelid::regclass, conname)) FROM pg_constraint WHERE connamespace::regnamespace::text !~ '^(pg_|information_schema)'),
      'functions', (SELECT json_agg(oid::regprocedure::text) FROM pg_proc WHERE pronamespace::regnamespace::text !~ '^(pg_|information_schema)'),
      'publications', (SELECT json_agg(pubname) FROM pg_publication),
      'slots', (SELECT json_agg(slot_name) FROM pg_replication_slots WHERE database = current_database()),
      'origins', (SELECT json_agg(roname) FROM pg_replication_origin WHERE starts_with(roname, 'coregent_' || $1)),
      'descriptions', (SELECT count(*) FROM pg_description WHERE classoid = 'pg_class'::regclass),
      'default acls', (SELECT count(*) FROM pg_default_acl)) AS catalog`,
    [cluster],
  );
  // json_agg gives each list in no order of its own.
  return Object.fromEntries(
    Object.entries(row?.catalog ?? {}).map(([what, list]) => [
      what,
      Array.isArray(list) ? list.toSorted((a, b) => (String(a) < String(b) ? -1 : 1)) : list,
    ]),
  );
};

test("three regions are prepared; again, nothing is to be done; uninstall leaves them as they were", async () => {
  const cluster = uniqueName("c");
  await using a = await createDatabase();
  await using b = await createDatabase();
  await using c = await createDatabase();
  const all = [a, b, c];
  for (const db of all) await db.query(schema);
  const before = await Promise.all(all.map((db) => catalogOf(db, cluster)));
  const topology = topologyOf({
    cluster,
    regions: [region("moldova", 3, a.url), region("argentina", 7, b.url), region("chad", 9, c.url)],
    schemas: ["public", "My schema"],
    tables: [owned("public.w", "home")],
  });
  const check = (): Promise<[]> => Promise.resolve([]);

  const report = await initCluster(topology, { check });
  expect(report.regions[0]).toEqual({
    region: "moldova",
    changes: [
      "schema coregent made",
      "coregent.conflict taken up",
      "coregent.idempotency taken up",
      "coregent.pulse taken up",
      'My schema.a"b taken up',
      "public.p taken up",
      "public.w taken up",
      "slot for argentina made",
      "slot for chad made",
    ],
  });
  expect(
    await a.query(
      "SELECT slot_name FROM pg_replication_slots WHERE database = current_database() ORDER BY 1",
    ),
  ).toEqual([{ slot_name: `coregent_${cluster}_3_7` }, { slot_name: `coregent_${cluster}_3_9` }]);
  expect(
    await b.query(
      "SELECT origin, count(*)::int FROM coregent.table_sync WHERE kind = 'own' GROUP BY 1 ORDER BY 1",
    ),
  ).toEqual([
    { origin: 3, count: 6 },
    { origin: 9, count: 6 },
  ]);
  expect((await initCluster(topology, { check })).regions.map((each) => each.changes)).toEqual([[], [], []]);

  // A slot that was dropped is made again, and what it would have brought is copied.
  await b.query("DELETE FROM coregent.table_sync");
  await b.query(
    `INSERT INTO coregent.progress (origin, incarnation, lsn) SELECT o, gen_random_uuid(), '0/1' FROM unnest('{3,9}'::int[]) o`,
  );
  await a.query("SELECT pg_drop_replication_slot($1)", [`coregent_${cluster}_3_7`]);
  expect((await initCluster(topology, { check })).regions[0]?.changes).toEqual(["slot for argentina made"]);
  expect(await b.query("SELECT DISTINCT origin FROM coregent.table_sync")).toEqual([{ origin: 3 }]);
  expect(await b.query("SELECT origin FROM coregent.progress")).toEqual([{ origin: 9 }]);

  await a.query("SELECT pg_replication_origin_create($1)", [`coregent_${cluster}_7`]);
  await a.query("DELETE FROM w WHERE a = 'x1'; UPDATE p SET v = 'c' WHERE id = 2");
  const removed = await uninstallCluster(topology);
  expect(removed.regions[0]?.changes).toEqual([
    `slot coregent_${cluster}_3_7 dropped`,
    `slot coregent_${cluster}_3_9 dropped`,
    `replication origin coregent_${cluster}_7 dropped`,
    'My schema.a"b released',
    "public.p released",
    "public.w released",
    "schema coregent dropped",
  ]);
  expect(await Promise.all(all.map((db) => catalogOf(db, cluster)))).toEqual(before);
  expect(await a.query("SELECT count(*)::int AS n, (SELECT v FROM p WHERE id = 2) AS v FROM w")).toEqual([
    { n: 9, v: "c" },
  ]);
  expect((await uninstallCluster(topology)).regions.map((each) => each.changes)).toEqual([[], [], []]);
  await dropOrigins(cluster);
});

test("uninstall refuses where an agent works or something stands on ours, and changes nothing", async () => {
  await using a = await createDatabase();
  await using b = await createDatabase();
  const cluster = uniqueName("c");
  for (const db of [a, b]) await db.query("CREATE TABLE w (id text PRIMARY KEY, v text)");
  const topology = topologyOf({
    cluster,
    regions: [region("moldova", 3, a.url), region("argentina", 7, b.url)],
  });
  await initCluster(topology, { check: () => Promise.resolve([]) });
  await b.query(
    `ALTER TABLE w ALTER COLUMN id SET DEFAULT coregent.ulid();
     CREATE VIEW shows AS SELECT id, cg_version FROM w; CREATE VIEW shows_not AS SELECT id FROM w;
     CREATE VIEW lost AS SELECT * FROM coregent.conflict`,
  );
  const slots = (): Promise<unknown> =>
    a.query("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()");
  const before = await slots();
  const agent = await tryAgentLock(a.url, "moldova");
  const refusal = await uninstallCluster(topology).catch((error: unknown) => error);
  expect(refusal).toMatchObject({ code: "CG-UNINSTALL-REFUSED" });
  expect(
    String(refusal)
      .split(/ as |; /)
      .slice(1),
  ).toEqual([
    "moldova: its agent works",
    "argentina: default value for column id of table public.w depends on it",
    "argentina: view public.lost depends on it",
    "argentina: view public.shows depends on it",
  ]);
  expect(await slots()).toEqual(before);
  await agent?.[Symbol.asyncDispose]();
  await b.query("ALTER TABLE w ALTER COLUMN id DROP DEFAULT; DROP VIEW shows, lost");
  await expect.poll(() => uninstallCluster(topology).then((report) => report.regions.length, String)).toBe(2);
});

test("a critical finding anywhere, or a region that is not reached, changes nothing", async () => {
  await using a = await createDatabase();
  await using b = await createDatabase();
  const cluster = uniqueName("c");
  const regions = [region("moldova", 3, a.url), region("argentina", 7, b.url)];
  const finding = {
    region: "argentina",
    severity: "critical" as const,
    code: "wal_level",
    object: "wal_level",
    message: "is replica",
    remedy: "",
  };
  const report = await initCluster(topologyOf({ cluster, regions }), {
    check: () => Promise.resolve([finding]),
  });
  expect(report).toEqual({ regions: [], findings: [finding] });
  const unreachable = [...regions, region("chad", 9, "postgres://postgres@127.0.0.1:1/x")];
  await expect(
    initCluster(topologyOf({ cluster, regions: unreachable }), { check: () => Promise.resolve([]) }),
  ).rejects.toThrow(/ECONNREFUSED/);
  for (const db of [a, b]) {
    expect(await db.query("SELECT FROM pg_namespace WHERE nspname = 'coregent'")).toEqual([]);
  }
});
