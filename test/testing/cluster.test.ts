import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { Client } from "pg";
import { expect, test } from "vitest";
import { topologyOf } from "../../src/config.ts";
import { isAlive } from "../../src/embedded/processes.ts";
import { startCluster, type TestCluster } from "../../src/testing/index.ts";
import { eventually } from "../support/eventually.ts";

/** The kit's own machinery, without Coregent in the databases: servers, lines, clocks, configuration files. */

const schema = "CREATE TABLE notes (id int PRIMARY KEY, body text NOT NULL)";

/** How one region's agent would reach another's database. */
const urlFrom = async (cluster: TestCluster, viewer: string, of: string): Promise<string> => {
  const text = await readFile(join(cluster.folder, `${viewer}.yaml`), "utf8");
  const topology = topologyOf(text, { file: viewer, env: {} });
  return topology.regions.find(({ name }) => name === of)?.postgres.reveal() ?? "";
};

const session = async (url: string): Promise<Client> => {
  const client = new Client({ connectionString: url, connectionTimeoutMillis: 500 });
  client.on("error", () => undefined);
  await client.connect();
  return client;
};

test("each region has the schema, takes SQL in both forms, and leaves nothing behind", async () => {
  let pids: number[];
  let folder: string;
  {
    await using cluster = await startCluster({ regions: 2, schema, install: false });
    const a = cluster.region("a");
    folder = cluster.folder;
    pids = cluster.regions.map(({ server }) => server.pid ?? 0);
    await a.sql("INSERT INTO notes VALUES ($1, $2)", [1, "one"]);
    await a.sql`INSERT INTO notes VALUES (${2}, ${"it's"})`;
    expect(await a.sql("SELECT * FROM notes ORDER BY id")).toEqual([
      { id: 1, body: "one" },
      { id: 2, body: "it's" },
    ]);
    expect(await cluster.region("b").sql("SELECT * FROM notes")).toEqual([]);
    expect(() => cluster.region("c")).toThrow("no region c; there are a, b");
  }
  expect(pids.filter(isAlive)).toEqual([]);
  await expect(stat(folder)).rejects.toThrow("ENOENT");
});

test("regions by name, each with its version of PostgreSQL", async () => {
  await using cluster = await startCluster({
    regions: ["old", "new"],
    version: { old: 16 },
    install: false,
    schemas: ["public", "app"],
    tables: [{ name: "public.notes", owner: "home_region", failover: "provisional" }],
  });
  const major = "SELECT current_setting('server_version_num')::int / 10000 AS v";
  expect(await cluster.region("old").sql(major)).toEqual([{ v: 16 }]);
  expect(await cluster.region("new").sql(major)).toEqual([{ v: 18 }]);
  const config = await cluster.coregent(["config"]);
  expect(config).toMatchObject({ code: 0, stderr: "" });
  expect(config.stdout).toContain("new");
  expect((await cluster.coregent(["nonsense"])).code).toBe(2);
  expect(cluster.topology).toMatchObject({
    cluster: "test",
    regions: [
      { name: "old", id: 1 },
      { name: "new", id: 2 },
    ],
    schemas: ["public", "app"],
    tables: [{ name: "public.notes", owner: "home_region", failover: "provisional" }],
  });
});

test("a schema that does not fit says where and why, and no server stays", async () => {
  await expect(
    startCluster({ regions: 1, schema: "CREATE TABLE t (x nonsense)", install: false }),
  ).rejects.toThrow(/does not go into region a: .*type "nonsense" does not exist/);
});

test("regions reach each other by lines that can be cut, one way too, and themselves directly", async () => {
  await using cluster = await startCluster({ regions: 3, schema, install: false });
  expect(await urlFrom(cluster, "a", "a")).toBe(cluster.region("a").url);
  const bAsksA = await session(await urlFrom(cluster, "b", "a"));
  const aAsksB = await session(await urlFrom(cluster, "a", "b"));
  let answers = 0;
  const ask = (client: Client): Promise<void> =>
    client.query("SELECT 1").then(
      () => void (answers += 1),
      () => undefined,
    );

  cluster.cut("a", "b", { oneWay: true });
  const held = ask(bAsksA);
  await ask(aAsksB);
  expect(answers).toBe(1);
  await expect(session(await urlFrom(cluster, "b", "a"))).rejects.toThrow(/timeout/);
  await (await session(await urlFrom(cluster, "c", "a"))).end();
  cluster.heal("b", "c");
  expect(answers).toBe(1);
  cluster.heal();
  await held;
  expect(answers).toBe(2);

  cluster.isolate("a", { mode: "reset" });
  await expect(bAsksA.query("SELECT 1")).rejects.toThrow();
  await expect(session(await urlFrom(cluster, "c", "a"))).rejects.toThrow();
  await (await session(await urlFrom(cluster, "c", "b"))).end();
  expect(await cluster.region("a").sql("SELECT 1 AS n")).toEqual([{ n: 1 }]);
});

test("latency is of each direction", async () => {
  await using cluster = await startCluster({ regions: 2, install: false });
  const client = await session(await urlFrom(cluster, "a", "b"));
  cluster.latency(40);
  const start = performance.now();
  await client.query("SELECT 1");
  expect(performance.now() - start).toBeGreaterThanOrEqual(79);
  await client.end();
});

test("a killed region comes back with what it had committed, at the same URL", async () => {
  await using cluster = await startCluster({ regions: 1, schema, install: false });
  const a = cluster.region("a");
  const { url } = a;
  await a.sql`INSERT INTO notes VALUES (1, 'kept')`;
  await cluster.kill("a");
  await expect(a.sql("SELECT 1")).rejects.toThrow();
  await cluster.restart("a");
  expect(a.url).toBe(url);
  expect(await a.sql("SELECT body FROM notes")).toEqual([{ body: "kept" }]);
});

test.each([16, 17, 18] as const)("a skewed clock reaches open sessions of PostgreSQL %i", async (version) => {
  await using cluster = await startCluster({ regions: 1, version, install: false });
  const open = await cluster.region("a").connect();
  await cluster.skewClock("a", -3_600_000);
  await eventually(async () => {
    const { rows } = await open.query("SELECT current_setting('coregent.clock_offset_us', true) AS v");
    expect(rows).toEqual([{ v: "-3600000000" }]);
  });
  await open.end();
});

test("a region that is added is reached by the others, and reaches them", async () => {
  await using cluster = await startCluster({ regions: 1, schema, install: false });
  await cluster.addRegion("late");
  for (const [viewer, of] of [
    ["a", "late"],
    ["late", "a"],
  ] as const) {
    const url = await urlFrom(cluster, viewer, of);
    expect(url).not.toBe(cluster.region(of).url);
    const client = await session(url);
    const { rows } = await client.query("SELECT count(*)::int AS n FROM notes");
    expect(rows).toEqual([{ n: 0 }]);
    await client.end();
  }
  expect(cluster.region("late").id).toBe(2);
});
