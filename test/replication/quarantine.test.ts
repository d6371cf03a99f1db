import { expect, test } from "vitest";
import type { State } from "../../conflict/state.ts";
import { reactionTo } from "../../src/postgres/sqlstate.ts";
import { retryQuarantined } from "../../src/replication/quarantine-retry.ts";
import { batchOf, MergeRegion } from "./merge-fixture.ts";
import { at, future, mergeNow, row, tombstone } from "./merge-helpers.ts";

const schema = `
CREATE DOMAIN weight AS int CHECK (VALUE > 0);
CREATE TABLE t (id text PRIMARY KEY, name text UNIQUE, n int4 CHECK (n < 100), must text NOT NULL DEFAULT '', w weight);`;

type Fields = {
  id: string;
  name: string;
  n: Buffer;
  must: string | null;
  w: Buffer;
};

const int4 = (n: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(n);
  return bytes;
};

const entries = (region: MergeRegion) =>
  region.db.query(
    `SELECT key, kind, version::text, sqlstate, payload, attempts, origin FROM coregent.quarantine ORDER BY key`,
  );

const limits = { now: new Date(Date.now() + 3_600_000), maxEntries: 100, firstMs: 1_000, maxMs: 60_000 };

test.each(["binary", "text"] as const)(
  "what does not fit is set aside, the rest is merged, and it comes in when it fits (%s)",
  async (format) => {
    await using region = await MergeRegion.create({ schema });
    const session = await region.session();
    const table = region.table("t");
    const number = (n: number): Buffer => (format === "binary" ? int4(n) : Buffer.from(String(n)));
    const given = Array.from({ length: 40 }, (_, i): { state: State; fields: Fields } => ({
      state: row(at(i, 2)),
      fields: {
        id: `k${i}`,
        name: `n${i}`,
        n: number(i),
        must: "x",
        w: number(1),
      },
    }));
    given[3]!.fields.name = "n2";
    given[11]!.fields.n = number(500);
    given[20]!.fields.must = null;
    given[31]!.fields.w = number(-1);
    const batch = batchOf(table, given, format);

    const failure = await mergeNow(session, batch).catch((error: unknown) => error);
    expect(reactionTo(failure, "merge")).toBe("quarantine");
    const report = await mergeNow(session, batch, { careful: true });
    expect(report).toMatchObject({ rowsMerged: 36, quarantined: 4, conflicts: [] });
    expect(await entries(region)).toMatchObject([
      { key: '["k11"]', sqlstate: "23514", payload: { id: "k11", n: "500" } },
      { key: '["k20"]', sqlstate: "23502", payload: { must: null } },
      { key: '["k3"]', sqlstate: "23505", version: String(at(3, 2)), origin: 2 },
      { key: '["k31"]', sqlstate: "23514", payload: { id: "k31", name: "n31", n: "31", must: "x", w: "-1" } },
    ]);

    // A replay changes nothing.
    expect(await mergeNow(session, batch, { careful: true })).toMatchObject({
      rowsMerged: 0,
      quarantined: 0,
    });
    expect(await retryQuarantined(session, region.tables, limits)).toMatchObject({ tried: 4, settled: 0 });
    expect(await entries(region)).toMatchObject([
      { attempts: 2 },
      { attempts: 2 },
      { attempts: 2 },
      { attempts: 2 },
    ]);

    // What was in the way goes: by a local write, by DDL, by a later state from elsewhere.
    await region.db.query(`UPDATE t SET name = 'other' WHERE id = 'k2'`);
    await region.db.query(
      `ALTER TABLE t DROP CONSTRAINT t_n_check; ALTER DOMAIN weight DROP CONSTRAINT weight_check`,
    );
    const later = { ...given[20]!, state: row(future(1, 2), { prev: at(20, 2) }) };
    later.fields = { ...later.fields, must: "y" };
    await mergeNow(session, batchOf(table, [later], format));
    const due = { ...limits, now: new Date(limits.now.getTime() + 3_600_000) };
    expect(await retryQuarantined(session, region.tables, due)).toMatchObject({ tried: 3, settled: 3 });
    expect(await entries(region)).toEqual([]);
    expect(
      await region.db.query(
        `SELECT id, name, n, must, w::int AS w, cg_version FROM t WHERE id IN ('k3','k11','k20','k31') ORDER BY id`,
      ),
    ).toEqual([
      { id: "k11", name: "n11", n: 500, must: "x", w: 1, cg_version: String(at(11, 2)) },
      { id: "k20", name: "n20", n: 20, must: "y", w: 1, cg_version: String(future(1, 2)) },
      { id: "k3", name: "n2", n: 3, must: "x", w: 1, cg_version: String(at(3, 2)) },
      { id: "k31", name: "n31", n: 31, must: "x", w: -1, cg_version: String(at(31, 2)) },
    ]);
    expect(await region.db.query("SELECT * FROM coregent.conflict")).toEqual([]);
  },
);

test("a state set aside counts as held: losers against it are reported, and it is when it loses", async () => {
  await using region = await MergeRegion.create({ schema });
  const session = await region.session();
  const table = region.table("t");
  const fields = { id: "a", name: "n", n: int4(1), must: "", w: null };
  const misfit = { id: "a", name: "n", n: int4(500), must: "", w: null };
  const one = (state: ReturnType<typeof row>, values = fields) => batchOf(table, [{ state, fields: values }]);
  const losers = async (): Promise<unknown> =>
    (
      await region.db.query(
        `SELECT loser_version::text || ' ' || winner_version AS pair FROM coregent.conflict ORDER BY loser_version`,
      )
    ).map(({ pair }) => pair);

  await mergeNow(session, one(row(at(1, 2))));
  // Upon another region's state: the row held has not been seen.
  await mergeNow(session, one(row(at(5, 3)), misfit), { careful: true });
  expect(await losers()).toEqual([`${at(1, 2)} ${at(5, 3)}`]);
  // Merged, and lower than what is set aside.
  await mergeNow(session, one(row(at(3, 4))));
  expect(await losers()).toEqual([`${at(1, 2)} ${at(5, 3)}`, `${at(3, 4)} ${at(5, 3)}`]);
  expect(await entries(region)).toHaveLength(1);
  // A tombstone that has not seen what is set aside outranks it.
  await mergeNow(
    session,
    batchOf(table, [{ state: tombstone(at(9, 4), { prev: at(3, 4) }), fields: { id: "a" } }]),
  );
  expect(await entries(region)).toEqual([]);
  expect(await losers()).toEqual([`${at(1, 2)} ${at(5, 3)}`, `${at(5, 3)} ${at(9, 4)}`]);
  // An outranked state that does not fit is not set aside.
  await mergeNow(session, one(row(at(7, 5)), misfit), { careful: true });
  expect(await entries(region)).toEqual([]);
  expect(await losers()).toContain(`${at(7, 5)} ${at(9, 4)}`);
});

test("a row whose CHECK calls a function that fails here is set aside, and keeps no other from its turn", async () => {
  await using region = await MergeRegion.create({
    schema: `
CREATE FUNCTION helper(x int) RETURNS boolean LANGUAGE sql AS 'SELECT x > 0';
CREATE FUNCTION good(x int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN helper(x); END';
CREATE FUNCTION denied(x int) RETURNS boolean LANGUAGE plpgsql AS
  'BEGIN IF x = 1 THEN RAISE insufficient_privilege; END IF; RETURN true; END';
CREATE TABLE t (id text PRIMARY KEY, n int4 CONSTRAINT good CHECK (good(n)));`,
  });
  const session = await region.session();
  const batch = batchOf(
    region.table("t"),
    [1, 2].map((n) => ({ state: row(at(n, 2)), fields: { id: `k${n}`, n: int4(n) } })),
  );
  // Sessions that merge have no search_path that would find `helper`.
  const failure = await mergeNow(session, batch).catch((error: unknown) => error);
  expect(reactionTo(failure, "merge")).toBe("quarantine");
  expect(await mergeNow(session, batch, { careful: true })).toMatchObject({ quarantined: 2 });
  expect(await entries(region)).toMatchObject([{ sqlstate: "42883" }, { sqlstate: "42883" }]);

  // An error that would stop a link. k1 is tried first.
  await region.db.query("ALTER TABLE t DROP CONSTRAINT good, ADD CHECK (denied(n))");
  expect(await retryQuarantined(session, region.tables, limits)).toMatchObject({ tried: 2, settled: 1 });
  expect(await entries(region)).toMatchObject([{ key: '["k1"]', sqlstate: "42501", attempts: 2 }]);
});

test("a session that yields again and again keeps no statement that it prepared before", async () => {
  await using region = await MergeRegion.create({ schema });
  const session = await region.session();
  const given = { id: "a", name: "n", n: int4(1), must: "", w: null };
  for (let i = 0; i < 5; i++) {
    await session.begin();
    await session.query("SELECT 1 AS one, $1::int", [i]);
    await session.rollback();
  }
  const { rows } = await session.client.query("SELECT name FROM pg_prepared_statements");
  expect(rows).toEqual([]);
  const merged = await mergeNow(
    session,
    batchOf(region.table("t"), [{ state: row(at(1, 2)), fields: given }]),
  );
  expect(merged.rowsMerged).toBe(1);
});
