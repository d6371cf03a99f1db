import { afterAll, beforeAll, expect, test } from "vitest";
import { startCluster, type TestCluster, type TestRegion } from "../../src/testing/index.ts";
import { eventually } from "../support/eventually.ts";
import { regionsDiffer } from "./regions-equal.ts";
import { schema, tableOptions } from "./tables.ts";
import { probeSql, Watcher } from "./watcher.ts";

/** That the readers of the convergence suite see what is wrong in a region, where something is made wrong by hand. */

let cluster: TestCluster;
let a: TestRegion;
let b: TestRegion;

beforeAll(async () => {
  cluster = await startCluster({ regions: 2, schema, tables: tableOptions, agents: false });
  a = cluster.region("a");
  b = cluster.region("b");
  for (const region of cluster.regions) {
    await region.sql(probeSql);
    await region.sql("DELETE FROM coregent.table_sync");
  }
}, 120_000);

afterAll(async () => {
  await cluster?.stop();
});

/** Watches region a while `work` is done, until a problem of this text is told. */
const watchFor = async (text: RegExp, work: () => Promise<unknown>): Promise<void> => {
  const problems: string[] = [];
  const stop = new AbortController();
  const rows = await a.sql<{ table_name: string; tombstone: string }>(
    "SELECT table_name, tombstone FROM coregent.replicated_table",
  );
  const tombstones = new Map(rows.map(({ table_name, tombstone }) => [table_name, `"${tombstone}"`]));
  const watcher = new Watcher(
    {
      region: a,
      regions: () => cluster.regions,
      prefix: "1-",
      tombstones,
      problem: (line) => problems.push(line),
      stop: stop.signal,
    },
    { joining: false },
  );
  await watcher.begin();
  const running = watcher.run();
  try {
    await eventually(() => watcher.polls > 3);
    expect(problems).toEqual([]);
    await work();
    await eventually(() => {
      expect(problems).toEqual([expect.stringMatching(text)]);
    });
  } finally {
    stop.abort();
    await running;
  }
};

const asReplica = async (region: TestRegion, sql: string): Promise<void> => {
  const session = await region.connect();
  await session.query("SET session_replication_role = replica");
  await session.query(sql);
  await session.end();
};

test("a transaction that is there in part: in one of two tables, or of another round", async () => {
  const insert = (table: string) =>
    a.sql(
      `INSERT INTO ${table} (grp, i, round, of_a, of_b) SELECT '1-b.1', i, 1, 2, 2 FROM generate_series(1, 2) AS i`,
    );
  await watchFor(/a shows a transaction of b in part: group 1-b.1: 2 rows/, () => insert("group_a"));
  await insert("group_b");
  await watchFor(/of round 1 to 2 in a/, () =>
    a.sql("UPDATE group_a SET round = 2 WHERE grp = '1-b.1' AND i = 1"),
  );
  await asReplica(a, "DELETE FROM group_a; DELETE FROM group_b");
});

test("a row that goes down, and one that vanishes without a tombstone", async () => {
  await a.sql("INSERT INTO plain (id, body) VALUES ('1-x', 'x'), ('1-y', 'y')");
  await watchFor(/plain \["1-x"\] went down/, () =>
    asReplica(a, "UPDATE plain SET cg_version = cg_version - 1024 WHERE id = '1-x'"),
  );
  await watchFor(/plain \["1-y"\] vanished/, () => asReplica(a, "DELETE FROM plain WHERE id = '1-y'"));
  await asReplica(a, "DELETE FROM plain");
});

test("what is equal, differs, is not swept, is set aside or is still copied", async () => {
  expect(await regionsDiffer(cluster.regions)).toEqual([]);
  await a.sql("INSERT INTO plain (id, body) VALUES ('1-z', 'z')");
  expect(await regionsDiffer(cluster.regions)).toEqual([expect.stringContaining("differs")]);
  const [held] = await a.sql<{ v: string }>("SELECT cg_version AS v FROM plain");
  const version = BigInt(held?.v ?? 0);
  await asReplica(b, `INSERT INTO plain (id, body, n, cg_version) VALUES ('1-z', 'z', 0, ${version})`);
  expect(await regionsDiffer(cluster.regions)).toEqual([]);
  // Only its state differs, as a user would not see.
  await asReplica(b, "UPDATE plain SET cg_prev = 1024");
  expect(await regionsDiffer(cluster.regions)).toEqual([
    expect.stringContaining('"public"."plain" (1-z) differs'),
  ]);
  await asReplica(b, "UPDATE plain SET cg_prev = 0");

  const [names] = await a.sql<{ tombstone: string }>(
    "SELECT tombstone FROM coregent.replicated_table WHERE table_name = 'plain'",
  );
  const bury = `INSERT INTO coregent."${names?.tombstone}" (id, cg_version) VALUES ('1-z', `;
  // A tombstone below the row says nothing; one above it must be in both regions, and the row in neither.
  await a.sql(`${bury}${version - 1024n})`);
  expect(await regionsDiffer(cluster.regions)).toEqual([]);
  for (const region of cluster.regions)
    await region.sql(
      `${bury}${version + 1024n}) ON CONFLICT (id) DO UPDATE SET cg_version = excluded.cg_version`,
    );
  expect(await regionsDiffer(cluster.regions)).toEqual([expect.stringContaining("not swept")]);
  await asReplica(a, "DELETE FROM plain");
  await asReplica(b, "DELETE FROM plain");
  expect(await regionsDiffer(cluster.regions)).toEqual([]);

  await b.sql(
    "INSERT INTO coregent.table_sync (origin, table_name, kind, reason) VALUES (1, 'public.plain', 'own', 'test')",
  );
  expect(await regionsDiffer(cluster.regions)).toEqual([expect.stringContaining("still copied")]);
  await b.sql("DELETE FROM coregent.table_sync");
  expect(
    await b.sql("SELECT origin FROM probe.copy WHERE what = 'INSERT own public.plain test'"),
  ).toContainEqual({
    origin: 1,
  });
});
