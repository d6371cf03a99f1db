import { constant, oneof, record, sample, type Arbitrary } from "fast-check";
import { describe, expect, it } from "vitest";
import { conflictType, succeeded } from "../../conflict/classify.ts";
import { merge, retracts } from "../../conflict/conflict-log.ts";
import { latticeFunctionsSql, outranks } from "../../conflict/sql.ts";
import { compareStates, seenAfter } from "../../conflict/state.ts";
import { MAX_CLOCK_MICROS, MAX_MICROS, nextVersion, pack } from "../../conflict/version.ts";
import { createDatabase, eventually, uniqueName, type TestDatabase } from "../support/database.ts";
import { clockMicros, region, state, version } from "./arbitraries.ts";
import { runs } from "./runs.ts";

const REGION = 2;

/** A database with the lattice's functions, and a clock that the test sets. */
const lattice = async (major?: 16 | 17 | 18): Promise<TestDatabase> => {
  const db = await createDatabase(major === undefined ? {} : { version: major });
  await db.query(`CREATE SCHEMA coregent;
    CREATE FUNCTION coregent.region_id() RETURNS int LANGUAGE sql IMMUTABLE RETURN ${REGION};
    CREATE FUNCTION coregent.clock_us() RETURNS bigint LANGUAGE sql VOLATILE
      RETURN current_setting('coregent.test_clock')::bigint;
    SET coregent.test_clock = '0'`);
  // Twice, for init does so.
  for (const sql of [...latticeFunctionsSql, ...latticeFunctionsSql]) await db.query(sql);
  return db;
};

const cases = <T>(of: Arbitrary<T>, usual = 2_000): T[] => {
  const { numRuns, ...seed } = runs(usual);
  // Each goes to the server in one statement, which bounds them.
  return sample(of, { numRuns: Math.min(numRuns, 20_000), ...seed });
};

const text = (values: readonly bigint[] | null): string | null =>
  values === null ? null : `{${values.join(",")}}`;

/** The value of `expression` over x, whose columns are given as text, for each case: as text. */
const evaluate = async (
  db: TestDatabase,
  expression: string,
  columns: Readonly<Record<string, readonly (bigint | number | string | boolean | null)[]>>,
): Promise<(string | null)[]> => {
  const names = Object.keys(columns);
  const rows = await db.query<{ value: string | null }>(
    `SELECT (${expression})::text AS value
       FROM unnest(${names.map((_, i) => `$${i + 1}::text[]`).join(", ")}) WITH ORDINALITY AS x(${names.join(", ")}, n)
      ORDER BY n`,
    Object.values(columns).map((values) => values.map((v) => (v === null ? null : String(v)))),
  );
  return rows.map((row) => row.value);
};

describe("the lattice in SQL does what the pure one does", () => {
  it.each([18, 16] as const)("on PostgreSQL %s", async (major) => {
    await using db = await lattice(major);

    const pairs = cases(record({ a: state, b: state, region }));
    const a = pairs.map((c) => c.a);
    const b = pairs.map((c) => c.b);
    const columns = {
      a_kind: a.map((s) => s.kind),
      a_base: a.map((s) => s.base),
      a_version: a.map((s) => s.version),
      a_prev: a.map((s) => s.prev),
      a_seen: a.map((s) => text(s.seen)),
      b_kind: b.map((s) => s.kind),
      b_base: b.map((s) => s.base),
      b_version: b.map((s) => s.version),
      b_prev: b.map((s) => s.prev),
      b_seen: b.map((s) => text(s.seen)),
      region: pairs.map((c) => c.region),
    };
    const of = (expression: string) => evaluate(db, expression, columns);

    expect(await of("coregent.seen_after(a_seen::bigint[], a_version::bigint, region::int)")).toEqual(
      pairs.map((c) => text(seenAfter(c.a, c.region))),
    );
    expect(await of("coregent.succeeded(a_version::bigint, b_version::bigint, b_seen::bigint[])")).toEqual(
      pairs.map((c) => String(succeeded(c.a.version, c.b))),
    );
    expect(await of("coregent.conflict_type(a_kind, a_prev::bigint, b_kind, b_prev::bigint)")).toEqual(
      pairs.map((c) => conflictType(c.a, c.b)),
    );
    expect(await of("coregent.retracts(a_version::bigint, b_version::bigint, b_seen::bigint[])")).toEqual(
      pairs.map((c) => String(retracts(c.a.version, c.b, REGION))),
    );
    const reports = (winner: string, loser: string, held: boolean) =>
      `coregent.reports(${loser}_version::bigint, ${winner}_version::bigint, ${winner}_seen::bigint[], ${held})`;
    const ab = pairs.map((c) => compareStates(c.a, c.b));
    const reported = await of(
      `CASE WHEN (a_base::bigint, a_version::bigint) > (b_base::bigint, b_version::bigint)
            THEN ${reports("a", "b", true)} ELSE ${reports("b", "a", false)} END`,
    );
    // b is held, a comes in. Contents follow from versions here, so equal rows are equal states.
    expect(reported.filter((_, i) => ab[i] !== 0)).toEqual(
      pairs.filter((_, i) => ab[i] !== 0).map((c) => String(merge(c.b, c.a, REGION).report !== null)),
    );
  });

  it("next_version, at the ends of its range too", async () => {
    await using db = await lattice();
    const inputs = cases(record({ clock: clockMicros, replaced: oneof(constant(0n), version) }));
    const got = await evaluate(
      db,
      "CASE WHEN set_config('coregent.test_clock', clock, true) <> '' THEN coregent.next_version(replaced::bigint) END",
      { clock: inputs.map((c) => c.clock), replaced: inputs.map((c) => c.replaced) },
    );
    expect(got).toEqual(
      inputs.map((c) => String(nextVersion({ clockMicros: c.clock, region: REGION, replaced: c.replaced }))),
    );
    expect(await evaluate(db, "coregent.next_version(r::bigint)", { r: [null] })).toEqual([
      String(pack(1n, REGION)),
    ]);
    await db.query(`SET coregent.test_clock = '${2n ** 62n}'`);
    expect(await evaluate(db, "coregent.next_version(r::bigint)", { r: [0n] })).toEqual([
      String(pack(MAX_CLOCK_MICROS, REGION)),
    ]);
    await expect(
      evaluate(db, "coregent.next_version(r::bigint)", { r: [pack(MAX_MICROS, 1)] }),
    ).rejects.toMatchObject({
      code: "22003",
    });
  });

  it("outranks, with owners and without", async () => {
    await using db = await lattice();
    const pairs = cases(record({ a: state, b: state }));
    const rows = await db.query<{ owned: boolean; plain: boolean }>(
      `SELECT ${outranks("a", '"B"', true)} AS owned, ${outranks("a", '"B"', false)} AS plain
         FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) WITH ORDINALITY AS x(ab, av, bb, bv, n)
        CROSS JOIN LATERAL (SELECT x.ab, x.av) AS a(cg_base, cg_version)
        CROSS JOIN LATERAL (SELECT x.bb, x.bv) AS "B"(cg_base, cg_version) ORDER BY n`,
      [
        pairs.map((c) => c.a.base),
        pairs.map((c) => c.a.version),
        pairs.map((c) => c.b.base),
        pairs.map((c) => c.b.version),
      ],
    );
    expect(rows).toEqual(
      pairs.map(({ a, b }) => ({ owned: compareStates(a, b) > 0, plain: a.version > b.version })),
    );
  });
});

describe("the functions in SQL", () => {
  it("are inlined, whatever operators the caller's search_path names first", async () => {
    await using db = await lattice();
    await db.query(`
      CREATE TABLE t (k int, cg_version bigint, cg_prev bigint, cg_seen bigint[]);
      CREATE FUNCTION public.never(bigint, bigint) RETURNS bigint LANGUAGE sql IMMUTABLE RETURN 77;
      CREATE OPERATOR public.& (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = public.never);
      CREATE OPERATOR public.# (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = public.never);
      SET search_path = public, pg_catalog`);
    expect(await db.query("SELECT 6::bigint & 3::bigint AS poisoned")).toEqual([{ poisoned: "77" }]);
    const calls = [
      "coregent.next_version(t.cg_version)",
      "coregent.next_version(greatest(t.cg_version, coregent.floor_version()))",
      "coregent.seen_after(t.cg_seen, t.cg_version, coregent.region_id())",
      "coregent.succeeded(t.cg_version, t.cg_prev, t.cg_seen)",
      "coregent.conflict_type('row', t.cg_prev, 'row', t.cg_prev)",
      "coregent.retracts(t.cg_version, t.cg_prev, t.cg_seen)",
      "coregent.reports(t.cg_version, t.cg_prev, t.cg_seen, t.k = 1)",
    ];
    for (const call of calls) {
      const plan = await db.query<{ "QUERY PLAN": string }>(
        `EXPLAIN (VERBOSE, COSTS off) SELECT ${call} FROM t`,
      );
      const name = call.slice(0, call.indexOf("("));
      expect(plan.map((line) => line["QUERY PLAN"]).join("\n")).not.toContain(`${name}(`);
    }
    expect(
      await evaluate(db, "coregent.succeeded(a::bigint, b::bigint, seen::bigint[])", {
        a: [pack(1n, 1), pack(1n, 1), pack(1n, 1)],
        b: [pack(2n, 1), pack(2n, 2), pack(2n, 2)],
        seen: [null, null, text([pack(1n, 1)])],
      }),
    ).toEqual(["true", "false", "true"]);
  });

  it("the floor only rises, also by merges at once and one that is rolled back", async () => {
    await using db = await lattice();
    const floor = async () => (await db.query<{ v: string }>("SELECT coregent.floor_version() AS v"))[0]?.v;
    expect(await floor()).toBe("0");
    const [one, other] = [await db.connect(), await db.connect()];
    await one.query("BEGIN");
    await one.query("SELECT coregent.raise_floor(5000)");
    await other.query("SET lock_timeout = '2s'");
    await other.query("SELECT coregent.raise_floor(4000), coregent.raise_floor(6000)");
    expect(await floor()).toBe("6000");
    await one.query("ROLLBACK");
    // A lower one that has found the floor low, and waits while a higher one sets it.
    const lock = "hashtextextended('coregent.floor', 0)";
    await one.query(`SELECT pg_advisory_lock(${lock})`);
    await other.query("SET lock_timeout = 0");
    const lower = other.query("SELECT coregent.raise_floor(6500)");
    await eventually(async () => {
      const waiting = await db.query(
        "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
      );
      return waiting.length === 1;
    });
    await one.query("SELECT setval('coregent.floor', 7000)");
    await one.query(`SELECT pg_advisory_unlock(${lock})`);
    await lower;
    expect(await floor()).toBe("7000");
  });

  it.each([18, 16] as const)(
    "the floor is read by roles without rights of their own, on PostgreSQL %s",
    async (major) => {
      await using db = await lattice(major);
      const role = uniqueName("role");
      await db.query(`CREATE ROLE ${role}; GRANT USAGE ON SCHEMA coregent TO ${role}; SELECT coregent.raise_floor(5000);
      SET ROLE ${role}`);
      expect(await db.query("SELECT coregent.floor_version() AS v")).toEqual([{ v: "5000" }]);
      await expect(db.query("SELECT coregent.raise_floor(6000)")).rejects.toMatchObject({ code: "42501" });
      await db.query(`RESET ROLE; DROP OWNED BY ${role}; DROP ROLE ${role}`);
    },
  );
});
