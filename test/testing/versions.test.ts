import { expect, test } from "vitest";
import { startCluster } from "../../src/testing/index.ts";
import { eventually } from "../support/eventually.ts";

/** Servers of three major versions in one cluster: each streams to, and merges from, both others. */

const schema = `
  CREATE TYPE mood AS ENUM ('good', 'bad');
  CREATE TABLE note (
    id    text PRIMARY KEY,
    body  text,
    big   text,
    n     int NOT NULL DEFAULT 0,
    mood  mood,
    moods mood[],
    at    timestamptz DEFAULT now(),
    twice text GENERATED ALWAYS AS (body || body) STORED
  );
  ALTER TABLE note ALTER COLUMN big SET STORAGE EXTERNAL;
  CREATE TABLE owned (id text PRIMARY KEY, home text NOT NULL, body text);
  CREATE TABLE handle (id text PRIMARY KEY, handle text UNIQUE)`;

test("PostgreSQL 16, 17 and 18 hold the same", { timeout: 60_000 }, async () => {
  await using cluster = await startCluster({
    regions: ["v16", "v17", "v18"],
    version: { v16: 16, v17: 17, v18: 18 },
    schema,
    tables: [{ name: "public.owned", owner: "home" }],
  });
  const [v16, v17, v18] = [cluster.region("v16"), cluster.region("v17"), cluster.region("v18")];
  for (const [region, major] of [
    [v16, 16],
    [v17, 17],
    [v18, 18],
  ] as const) {
    expect(await region.sql("SELECT current_setting('server_version_num')::int / 10000 AS v")).toEqual([
      { v: major },
    ]);
  }
  const everywhere = async (sql: string, rows: unknown): Promise<void> => {
    for (const region of cluster.regions) expect(await region.sql(sql), region.name).toEqual(rows);
  };

  // Inserts, updates and deletes from each; a large value that the updates do not send again.
  for (const region of cluster.regions) {
    const { name } = region;
    await region.sql(
      `INSERT INTO note (id, body, big, mood, moods)
       SELECT '${name} ' || i, 'body ' || i, repeat(md5('${name}' || i), 500), 'good', '{good,bad}' FROM generate_series(1, 60) i`,
    );
    await region.sql(
      `UPDATE note SET body = 'updated', mood = 'bad' WHERE id LIKE '${name} %' AND n = 0 AND id LIKE '%5'`,
    );
    await region.sql(`DELETE FROM note WHERE id LIKE '${name} %9'`);
    await region.sql("INSERT INTO owned VALUES ($1, $1, 'first')", [name]);
  }
  await cluster.converged();
  await everywhere(
    "SELECT count(*)::int AS rows, count(*) FILTER (WHERE twice = 'updatedupdated' AND mood = 'bad')::int AS updated FROM note",
    [{ rows: 162, updated: 18 }],
  );

  // Others update what they have only merged: the large value must not be lost on the way.
  await v18.sql("UPDATE note SET n = n + 1 WHERE id LIKE 'v16 %'");
  await v16.sql("UPDATE note SET n = n + 1 WHERE id LIKE 'v17 %'");
  await v17.sql("UPDATE note SET n = n + 1 WHERE id LIKE 'v18 %'");
  await cluster.converged();
  await everywhere(
    `SELECT count(*)::int AS rows FROM note
      WHERE n = 1 AND big = repeat(md5(replace(id, ' ', '')), 500) AND moods = '{good,bad}'`,
    [{ rows: 162 }],
  );

  // Every region for itself: updates of one row, an update against a delete, one unique value taken in all three.
  for (const { name } of cluster.regions) cluster.isolate(name);
  for (const region of cluster.regions) {
    await region.sql("UPDATE note SET body = $1 WHERE id = 'v16 1'", [`by ${region.name}`]);
    await region.sql("UPDATE owned SET body = $1", [`by ${region.name}`]);
    await region.sql("INSERT INTO note (id, body) VALUES ('same', $1)", [`by ${region.name}`]);
    await region.sql("INSERT INTO handle VALUES ($1, 'taken')", [region.name]);
  }
  await v16.sql("DELETE FROM note WHERE id = 'v17 1'");
  await v18.sql("UPDATE note SET body = 'kept' WHERE id = 'v17 1'");
  cluster.heal();
  await eventually(
    async () => {
      for (const region of cluster.regions) {
        const others = cluster.regions.filter((other) => other !== region).map(({ name }) => `["${name}"]`);
        expect(await region.sql("SELECT key FROM coregent.quarantine ORDER BY key")).toEqual(
          others.map((key) => ({ key })),
        );
      }
    },
    { timeoutMs: 20_000 },
  );
  await v17.sql("UPDATE handle SET handle = 'of v17' WHERE id = 'v17'");
  await v18.sql("UPDATE handle SET handle = 'of v18' WHERE id = 'v18'");
  await cluster.converged();
  await everywhere("SELECT handle FROM handle ORDER BY id", [
    { handle: "taken" },
    { handle: "of v17" },
    { handle: "of v18" },
  ]);
  await everywhere("SELECT id, body FROM owned ORDER BY id", [
    { id: "v16", body: "by v16" },
    { id: "v17", body: "by v17" },
    { id: "v18", body: "by v18" },
  ]);
  await everywhere("SELECT body FROM note WHERE id IN ('v16 1', 'same', 'v17 1') ORDER BY id", [
    { body: "by v18" },
    { body: "by v18" },
    { body: "kept" },
  ]);
  // Several regions may report one loss.
  await everywhere(
    "SELECT type, count(DISTINCT (key, loser_version))::int AS n FROM coregent.conflict WHERE table_name = 'public.note' GROUP BY type ORDER BY type",
    [
      { type: "insert_exists", n: 2 },
      { type: "update_deleted", n: 1 },
      { type: "update_origin_differs", n: 2 },
    ],
  );
  const verified = await cluster.coregent(["verify", "--deep"]);
  expect(verified.stdout).toMatch(/^equal: /);
  expect(verified.code).toBe(0);
});
