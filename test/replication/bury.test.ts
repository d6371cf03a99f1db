import { expect, test } from "vitest";
import type { State } from "../../conflict/state.ts";
import type { ReplicatedTable } from "../../src/postgres/table.ts";
import type { MergeSession } from "../../src/replication/merge-session.ts";
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

/** Types of keys, with the n-th value of each. */
const keys = {
  uuid: "md5(n::text)::uuid",
  int2: "n",
  int4: "n",
  int8: "n << 40",
  text: "n::text",
  "text COLLATE caseless": "'K' || n",
  "varchar(9)": "n::text",
  "char(9)": "n::text",
  bytea: "int4send(n)",
  numeric: "n + 0.50",
  date: "'2026-01-01'::date + n",
  timestamp: "'2026-01-01'::timestamp + n * interval '1 hour'",
  timestamptz: "'2026-01-01'::timestamptz + n * interval '1 hour'",
};
const oneByOne = /Index Scan using \w+_pkey on \w+ cur/;
const atOnce = /Filter: .*hashed SubPlan[^]*Index Cond: .* = ANY/;

/** The n-th of them in lower case where the type does not mind. */
const buried = async (session: MergeSession, table: ReplicatedTable, value: string) => {
  const [rows, tombstones] = [`public.${table.table}`, `coregent.${table.tombstone}`];
  const sql = buryCopiedSql(table, {
    ends: `${tombstones} AS k`,
    blocks: 1,
    atOnce: session.serverVersion > 16,
  });
  const { rows: lines } = await session.client.query<Record<string, string>>(`EXPLAIN (GENERIC_PLAN) ${sql}`);
  const plan = lines.map((line) => line["QUERY PLAN"]).join("\n");
  await session.client.query(`SET session_replication_role = replica;
    INSERT INTO ${rows} (id, no, cg_version) SELECT ${value}, n, n * 1024 FROM generate_series(1, 300) n WHERE n % 5 > 0;
    INSERT INTO ${tombstones} (id, ${table.key.length > 1 ? "no," : ""} cg_version, cg_prev)
      SELECT ${value.replace("K", "k")}, ${table.key.length > 1 ? "n," : ""} 5000 * 1024, n * 1024 - (n % 3) FROM generate_series(1, 250) n`);
  const { rowCount } = await session.client.query(sql, [64]);
  const { rows: left } = await session.client.query<{ no: number }>(`SELECT no FROM ${rows} ORDER BY no`);
  return { plan, rowCount, left: left.map(({ no }) => no) };
};

test("tombstones that are more than one part bury their rows, wherever these lie", async () => {
  await using region = await MergeRegion.create({ schema });
  const { merge } = await mergerOf(region);
  const relation = `coregent.${region.table("t").tombstone}`;
  for (const space of [false, true]) {
    // Pages with some space each, in which a COPY goes here and there.
    await region.db.query(`TRUNCATE ${relation}; SET session_replication_role = replica; TRUNCATE t;
      INSERT INTO ${relation} (id, cg_version) SELECT 'old' || i, 5 FROM generate_series(1, 20000) AS i WHERE ${space};
      DELETE FROM ${relation} WHERE right(id, 2) < '30'; RESET session_replication_role`);
    await region.db.query(`VACUUM ${relation}`);
    await merge(rowsOf(4500));
    await region.db.query(`SET session_replication_role = replica;
      UPDATE t SET cg_version = cg_version + (1024::bigint << 30) WHERE id IN ('k1', 'k4499');
      RESET session_replication_role`);
    expect(await merge(deadUpon(4500))).toMatchObject({ tombstonesMerged: 4500, rowsSwept: 4498 });
    expect(await present(region)).toEqual(["k1", "k4499"]);
  }
});

test("of rows that others change meanwhile those go that are as their tombstone has seen them", async () => {
  await using region = await MergeRegion.create({ schema });
  const { merge } = await mergerOf(region);
  await merge(rowsOf(300));
  const other = await region.db.connect();
  await other.query(`BEGIN; SET LOCAL session_replication_role = replica;
    UPDATE t SET cg_version = cg_version + (1024::bigint << 30) WHERE id = 'k5';
    UPDATE t SET val = 'of the same version' WHERE id = 'k6';
    DELETE FROM t WHERE id = 'k7'; UPDATE t SET id = 'moved' WHERE id = 'k8'`);
  const merging = merge(deadUpon(300));
  await eventually(async () => expect(await region.db.query(blockedSql, ["merge 2"])).toHaveLength(1));
  await other.query("COMMIT");
  expect(await merging).toMatchObject({ rowsSwept: 297, conflicts: [] });
  expect(await present(region)).toEqual(["k5", "moved"]);
});

test.each([18, 17, 16] as const)(
  "of what a COPY has inserted, those rows go that it was written upon, by a plan made while nothing was there: PostgreSQL %i",
  async (version) => {
    const tables = Object.entries(keys).map(([type, value], n) => ({
      name: `t${n}`,
      type,
      value,
      plan: atOnce,
    }));
    const others = [
      { name: "bits", type: "bit(9)", value: "n::bit(9)", plan: oneByOne },
      { name: "two", type: "text", value: "n::text", plan: oneByOne },
      { name: "parts", type: "int8", value: "n", plan: oneByOne },
    ];
    const made = [...tables, ...others].map(
      ({
        name,
        type,
      }) => `CREATE TABLE ${name} (id ${type}, no int, PRIMARY KEY (id${name === "two" ? ", no" : ""}))
        ${name === "parts" ? "PARTITION BY RANGE (id)" : ""}`,
    );
    const collation =
      "CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
    await using region = await MergeRegion.create({
      version,
      schema: [collation, ...made, "CREATE TABLE part PARTITION OF parts DEFAULT"].join(";"),
    });
    const { session } = await mergerOf(region);
    const numbers = Array.from({ length: 300 }, (_, n) => n + 1).filter((n) => n % 5 > 0);
    const gone = new Set(numbers.filter((n) => n <= 250 && n % 3 === 0));
    for (const { name, value, plan } of [...tables, ...others]) {
      const done = await buried(session, region.table(name), value);
      expect(done).toMatchObject({ rowCount: gone.size, left: numbers.filter((n) => !gone.has(n)) });
      expect(done.plan).toMatch(version === 16 ? oneByOne : plan);
      expect(done.plan).toMatch(/Tid Range Scan on tombstone_/);
      expect(done.plan).not.toMatch(/Seq Scan on \w+ cur|(?<!hashed )SubPlan \d+\)\.col1/);
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
  const sql = buryCopiedSql(region.table("t"), {
    ends: "unnest($1::text[]) AS k(id)",
    blocks: 2,
    atOnce: true,
  });
  const bury = (blocks: number) =>
    session.transaction(async () => (await session.query(sql, [["k0", "k99"], String(blocks)])).rowCount);
  expect(await bury(blocksWithin(300, 10_000))).toBe(0);
  expect(await bury(blocksWithin(30_000, 1_000_000))).toBe(300);
});
