import { expect, test } from "vitest";
import { startCluster } from "../../src/testing/index.ts";

/** `converged` must not say yes where it is no: without agents, nothing that differs can become equal. */

const schema = `
  CREATE SCHEMA "Other";
  CREATE TYPE mood AS ENUM ('good', 'bad');
  CREATE TABLE notes (id int PRIMARY KEY, body text, mood mood, twice text GENERATED ALWAYS AS (body || body) STORED);
  CREATE TABLE "Other"."No""tes" ("K 1" int, k2 text, data json, PRIMARY KEY (k2, "K 1"))`;

test("equal regions have converged; what differs is told, key by key", { timeout: 120_000 }, async () => {
  await using cluster = await startCluster({
    regions: ["a", "b"],
    schema,
    schemas: ["public", "Other"],
    agents: false,
  });
  const a = cluster.region("a");
  const b = cluster.region("b");
  const refused = async (): Promise<string> =>
    cluster.converged({ timeoutMs: 50 }).then(
      () => "converged",
      (error: Error) => error.message,
    );
  // Each region is to copy what the other has; only agents can.
  expect(await refused()).toContain("region a: public.notes is being copied from region 2 (");
  for (const region of cluster.regions) await region.sql("DELETE FROM coregent.table_sync");
  await cluster.converged({ timeoutMs: 5_000 });

  await a.sql("INSERT INTO notes (id, body, mood) VALUES (1, 'x', 'good')");
  const missing = await refused();
  expect(missing).toContain("public.notes differs: a 1 rows, b 0 rows");
  expect(missing).toMatch(/public\.notes \(1\)\n +a: \(x,\d+.*,good\)\n +b: no row/);
  expect(missing).toContain("Region a: its agent is stopped; its server runs");

  // Equal content under another version is not the same state.
  await b.sql("INSERT INTO notes (id, body, mood) VALUES (1, 'x', 'good')");
  expect(await refused()).toContain("public.notes differs: a 1 rows, b 1 rows");
  await a.sql("DELETE FROM notes");
  await b.sql("DELETE FROM notes");
  expect(await refused()).toBe("converged");

  await b.sql(`INSERT INTO "Other"."No""tes" VALUES (1, 'k', '{"a": 1, "a": 2}')`);
  expect(await refused()).toContain('Other.No"tes (k,1)');
  await b.sql(`TRUNCATE "Other"."No""tes"`);

  await cluster.kill("b", { what: "server" });
  expect(await refused()).toMatch(/region b cannot be reached/);
});

test("a schema that cannot be replicated is refused with the remedy", async () => {
  const unfit = "CREATE TABLE t (id int PRIMARY KEY, n int UNIQUE DEFERRABLE)";
  await expect(startCluster({ regions: 2, schema: unfit })).rejects.toThrow(
    /cannot be installed on this schema:\nregion a, .*t.*/,
  );
});
