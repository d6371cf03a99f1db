import { expect, test } from "vitest";
import type { State } from "../../conflict/state.ts";
import { blocksWithin, buryCopiedSql } from "../../src/replication/sweep-sql.ts";
import { eventually } from "../support/eventually.ts";
import { batchOf, MergeRegion } from "./merge-fixture.ts";
import { at, blockedSql, mergeNow, row, tombstone } from "./merge-helpers.ts";

/** Tombstones that come by COPY, and the rows that they remove. */

const schema = "CREATE TABLE t (id text PRIMARY KEY, no text, val text)";

const rowsOf = (count: number): State[] => Array.from({ length: count }, (_, n) => row(at(n, 2)));

const deadUpon = (count: number): State[] =>
  Array.from({ length: count }, (_, n) => tombstone(at(9000 + n, 2), { prev: at(n, 2) }));

const present = async (region: MergeRegion): Promise<string[]> =>
  (await region.db.query<{ id: string }>("SELECT id FROM t ORDER BY no::int")).map(({ id }) => id);

const mergerOf = async (region: MergeRegion) => {
  const session = await region.session({ settings: { lock_timeout: "20s" } });
  const field = (state: State, n: number) => ({
    id: `k${n}`,
    ...(state.kind === "row" ? { no: String(n) } : {}),
  });
  const merge = (states: State[]) =>
    mergeNow(
      session,
      batchOf(
        region.table("t"),
        states.map((state, n) => ({ state, fields: field(state, n) })),
      ),
    );
  return { session, merge };
};

/** Of 300 keys, so many have something else than what their tombstone was written upon. */
test.each([20, 250])(
  "tombstones meet %i rows that they have not seen, higher ones and none",
  async (others) => {
    await using region = await MergeRegion.create({ schema });
    const { merge } = await mergerOf(region);
    await merge(rowsOf(300));
    await region.db.query(`SET session_replication_role = replica;
    UPDATE t SET cg_version = cg_version + CASE no::int % 4 WHEN 0 THEN 1 WHEN 1 THEN (1024::bigint << 30) + 1 ELSE 0 END WHERE no::int < ${others};
    DELETE FROM t WHERE no::int % 4 = 2 AND no::int < ${others}; RESET session_replication_role`);
    const higher = Array.from({ length: others }, (_, n) => n).filter((n) => n % 4 === 1);
    const absent = Array.from({ length: others }, (_, n) => n).filter((n) => n % 4 === 2);
    const report = await merge(deadUpon(300));
    expect(report.tombstonesMerged).toBe(300);
    expect(report.rowsSwept).toBe(300 - higher.length - absent.length);
    expect(await present(region)).toEqual(higher.map((n) => `k${n}`));
    const losers = await region.db.query(
      "SELECT loser_kind AS kind, count(*)::int AS n FROM coregent.conflict GROUP BY 1 ORDER BY 1",
    );
    expect(losers).toEqual([
      { kind: "row", n: Math.ceil(others / 4) },
      { kind: "tombstone", n: higher.length },
    ]);
  },
);

test("tombstones bury their rows also where they do not lie together", async () => {
  await using region = await MergeRegion.create({ schema });
  const { merge } = await mergerOf(region);
  const relation = `coregent.${region.table("t").tombstone}`;
  // Pages with some space each, in which a COPY goes here and there.
  await region.db.query(`ALTER TABLE ${relation} SET (autovacuum_enabled = off);
    INSERT INTO ${relation} (id, cg_version) SELECT 'old' || i, 5 FROM generate_series(1, 20000) AS i;
    DELETE FROM ${relation} WHERE right(id, 2) < '30'`);
  await region.db.query(`VACUUM ${relation}`);
  for (let round = 0; round < 3; round++) {
    await region.db.query(`SET session_replication_role = replica; TRUNCATE t;
      DELETE FROM ${relation} WHERE id LIKE 'k%'; RESET session_replication_role`);
    await merge(rowsOf(300));
    expect(await merge(deadUpon(300))).toMatchObject({ tombstonesMerged: 300, rowsSwept: 300 });
    expect(await present(region)).toEqual([]);
  }
});

test("a tombstone of another that lies among them does not count for one of them", async () => {
  await using region = await MergeRegion.create({ schema });
  const { merge } = await mergerOf(region);
  const relation = `coregent.${region.table("t").tombstone}`;
  await merge(rowsOf(300));
  // What a race may leave: a row below its tombstone. Around this one is space for 150.
  await region.db.query(`SET session_replication_role = replica;
    INSERT INTO t (id, no, cg_version) VALUES ('old151', 300, 4);
    UPDATE t SET cg_version = cg_version + 1 WHERE id = 'k0';
    INSERT INTO ${relation} (id, cg_version, cg_prev) SELECT 'old' || i, 5, 4 FROM generate_series(1, 151) AS i;
    DELETE FROM ${relation} WHERE id <> 'old151'; RESET session_replication_role`);
  await region.db.query(`VACUUM ${relation}`);
  expect(await merge(deadUpon(300))).toMatchObject({ rowsSwept: 300, conflicts: [{ count: 1 }] });
  expect(await present(region)).toEqual(["old151"]);
});

test("a row that a local writer changes while its tombstone is merged outlives it", async () => {
  await using region = await MergeRegion.create({ schema });
  const { merge } = await mergerOf(region);
  await merge(rowsOf(300));
  const local = await region.db.connect();
  await local.query("BEGIN; UPDATE t SET val = 'local' WHERE id = 'k5'");
  const merging = merge(deadUpon(300));
  await eventually(async () => expect(await region.db.query(blockedSql, ["merge 2"])).toHaveLength(1));
  await local.query("COMMIT");
  expect(await merging).toMatchObject({
    rowsSwept: 299,
    conflicts: [{ type: expect.stringContaining("delete") as string, count: 1 }],
  });
  expect(await present(region)).toEqual(["k5"]);
});

/** Types of keys. The last are those whose rows are looked up one by one: two columns, and a type without hashes. */
const keys = {
  id: "uuid int2 int4 int8 text varchar(9) char(9) bytea numeric date timestamp timestamptz bit(9)".split(
    " ",
  ),
  "id, no": ["text"],
};
const oneByOne = /Index Scan using t\d+_pkey on t\d+ cur/;
const atOnce = /Index Cond: .* = ANY/;

test.each([18, 16] as const)(
  "what a COPY has inserted is read from where it lies, also by a plan made while nothing was there, on PostgreSQL %i",
  async (version) => {
    const tables = Object.entries(keys).flatMap(([key, types]) => types.map((type) => ({ key, type })));
    const made = tables.map(
      ({ key, type }, n) => `CREATE TABLE t${n} (id ${type}, no text, PRIMARY KEY (${key}))`,
    );
    await using region = await MergeRegion.create({ version, schema: made.join(";") });
    const { session } = await mergerOf(region);
    for (const [n, { key, type }] of tables.entries()) {
      const ends = `(SELECT ${key} FROM public.t${n} LIMIT $1) AS k`;
      await session.client.query(`PREPARE bury${n} AS ${buryCopiedSql(region.table(`t${n}`), ends, 2)}`);
      const { rows } = await session.client.query<Record<string, string>>(`EXPLAIN EXECUTE bury${n}(2, 64)`);
      const plan = rows.map((line) => line["QUERY PLAN"]).join("\n");
      expect(plan).toMatch(/Tid Range Scan on tombstone_t/);
      expect(plan).toMatch(type === "bit(9)" || key !== "id" ? oneByOne : atOnce);
      // Not going over all tombstones for each row.
      if (plan.includes("SubPlan")) expect(plan).toMatch(/hashed SubPlan/);
      expect(plan).not.toMatch(/Seq Scan on t\d+ cur/);
    }
  },
);

test("what lies far apart is not read from where it lies", async () => {
  await using region = await MergeRegion.create({ schema });
  const { session, merge } = await mergerOf(region);
  const relation = `coregent.${region.table("t").tombstone}`;
  // A hundred full blocks of which the first becomes free: the COPY begins there, and goes on at the end.
  await region.db.query(`ALTER TABLE ${relation} SET (autovacuum_enabled = off);
    ALTER TABLE ${relation} ALTER cg_seen SET STORAGE PLAIN;
    INSERT INTO ${relation} (id, cg_version, cg_seen)
      SELECT 'old' || i, 5, array_fill(7::bigint, ARRAY[1006]) FROM generate_series(1, 100) AS i;
    DELETE FROM ${relation} WHERE id = 'old1'`);
  await region.db.query(`VACUUM (INDEX_CLEANUP on) ${relation}`);
  expect(await merge(deadUpon(300))).toMatchObject({ tombstonesMerged: 300, rowsSwept: 0 });
  await region.db.query(`SET session_replication_role = replica;
    INSERT INTO t (id, cg_version) SELECT id, cg_prev FROM ${relation} WHERE id LIKE 'k%';
    RESET session_replication_role`);
  const sql = buryCopiedSql(region.table("t"), "unnest($1::text[]) AS k(id)", 2);
  const bury = (blocks: number) =>
    session.transaction(async () => (await session.query(sql, [["k0", "k99"], String(blocks)])).rowCount);
  expect(await bury(blocksWithin(300, 10_000))).toBe(0);
  expect(await bury(blocksWithin(30_000, 1_000_000))).toBe(300);
});
