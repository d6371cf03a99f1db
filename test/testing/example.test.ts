import { expect, test } from "vitest";
import { startCluster } from "../../src/testing/index.ts";

const schema = `
  CREATE TABLE notes (
    id          uuid PRIMARY KEY,
    body        text NOT NULL,
    home_region text NOT NULL
  )`;

test("notes written on both sides of a partition end equal", { timeout: 60_000 }, async () => {
  await using cluster = await startCluster({
    regions: 3, // a, b and c; or ["moldova", "argentina", "new-zealand"]
    schema, // run in every region before Coregent is installed there
    tables: [{ name: "public.notes", owner: "home_region" }], // as in coregent.yaml
    latencyMs: 50, // each direction: a round trip takes 100 ms
  });
  const a = cluster.region("a");
  const b = cluster.region("b");
  const id = "0197e0c4-7f2a-7000-8000-000000000001";

  await a.sql`INSERT INTO notes VALUES (${id}, 'first', 'a')`;
  await cluster.converged();

  cluster.cut("a", "b");
  await a.sql("UPDATE notes SET body = $1", ["by its owner"]);
  await b.sql("UPDATE notes SET body = $1", ["by somebody else"]);
  await cluster.kill("c"); // its agent and its server, by SIGKILL
  cluster.heal();
  await cluster.restart("c");

  await cluster.converged({ timeoutMs: 30_000 });
  for (const region of cluster.regions) {
    expect(await region.sql("SELECT body FROM notes")).toEqual([{ body: "by its owner" }]);
  }
  // What lost is not gone: it is in the conflict log, in every region.
  const [conflict] = await b.sql("SELECT type, loser_row->>'body' AS body FROM coregent.conflict");
  expect(conflict).toEqual({ type: "update_origin_differs", body: "by somebody else" });
});
