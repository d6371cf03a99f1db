import * as fc from "fast-check";
import { expect, test } from "vitest";
import { MAX_CLOCK_MICROS, MAX_MICROS, nextVersion, pack } from "../../../conflict/version.ts";
import { version } from "../../conflict/arbitraries.ts";
import { runs } from "../../conflict/runs.ts";
import { createDatabase } from "../../support/database.ts";
import { install, owned, states, tombstones } from "../install/installed.ts";

/** A version an hour ahead of the clock, of region 7. */
const ahead = (BigInt(Date.now() + 3_600_000) << 10n) * 1000n + 7n;

test("stamp_above is a version in digits; anything else is none", async () => {
  await using db = await createDatabase();
  await install(db);
  const stampAbove = async (value: string): Promise<unknown> => {
    const rows = await db.query("SELECT set_config('coregent.stamp_above', $1, false)", [value]);
    expect(rows).toHaveLength(1);
    return (await db.query<{ v: string }>("SELECT coregent.stamp_above() AS v"))[0]?.v;
  };
  expect((await db.query<{ v: string }>("SELECT coregent.stamp_above() AS v"))[0]?.v).toBe("0");
  for (const value of ["0", "7", "1789000000000000007", "9223372036854775807"])
    expect(await stampAbove(value)).toBe(value);
  expect(await stampAbove("0000000000000000012")).toBe("12");
  for (const value of [
    "",
    " ",
    " 12",
    "-1",
    "+1",
    "1.0",
    "1e3",
    "0x1f",
    "1_0",
    "soon",
    "9223372036854775808",
  ])
    expect(await stampAbove(value)).toBe("0");
  for (const value of ["9".repeat(19), "9".repeat(20), "1".repeat(10_000), "1\n", "\u0661"])
    expect(await stampAbove(value)).toBe("0");
});

test("takeover is 'on' or nothing", async () => {
  await using db = await createDatabase();
  await install(db);
  const takeover = async () => (await db.query<{ v: boolean }>("SELECT coregent.takeover() AS v"))[0]?.v;
  expect(await takeover()).toBe(false);
  for (const value of ["on", "", "off", "ON", "true", "1", " on"]) {
    await db.query("SELECT set_config('coregent.takeover', $1, false)", [value]);
    expect(await takeover()).toBe(value === "on");
  }
});

test("both last for their transaction", async () => {
  await using db = await createDatabase();
  await db.query("CREATE TABLE t (id int PRIMARY KEY, home text)");
  await install(db, { tables: [owned("public.t", "home")] });
  await db.query(`BEGIN; SET LOCAL coregent.stamp_above = '${ahead}'; SET LOCAL coregent.takeover = 'on';
    INSERT INTO t VALUES (1, 'argentina'); COMMIT; INSERT INTO t VALUES (2, 'argentina')`);
  const rows = await states(db, "t");
  expect(rows.get("1")?.version).toBeGreaterThan(ahead);
  expect(rows.get("1")?.base).toBe(rows.get("1")?.version);
  expect(rows.get("2")?.version).toBeLessThan(ahead);
  expect(rows.get("2")?.base).toBe(0n);
});

test("a row that moves between partitions is stamped above itself and above what the writer has set", async () => {
  await using db = await createDatabase();
  await db.query(`CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE t_low PARTITION OF t FOR VALUES FROM (0) TO (4);
    CREATE TABLE t_high PARTITION OF t FOR VALUES FROM (4) TO (99)`);
  await install(db);
  const further = ahead + (1n << 40n);
  await db.query(`INSERT INTO t VALUES (1, 'usual'), (3, 'usual');
    BEGIN; SET LOCAL coregent.stamp_above = '${further}'; INSERT INTO t VALUES (2, 'far'); COMMIT`);
  const before = await states(db, "t");
  // Lower than the writer's value, then higher.
  await db.query(`BEGIN; SET LOCAL coregent.stamp_above = '${ahead}'; UPDATE t SET id = 11 WHERE id = 1;
    INSERT INTO t VALUES (20, 'later'); UPDATE t SET id = 12 WHERE id = 2; DELETE FROM t WHERE id = 3; COMMIT`);
  const after = await states(db, "t");
  const dead = await tombstones(db, "public.t");
  for (const state of [...after.values(), ...dead.values()]) expect(state.version).toBeGreaterThan(ahead);
  expect(after.get("12")?.version).toBeGreaterThan(before.get("2")?.version ?? 0n);
  expect(after.get("20")?.version).toBeLessThan(further);
});

test.each([18, 16] as const)("coregent.stamp is the pure rule, on PostgreSQL %i", async (major) => {
  await using db = await createDatabase({ version: major });
  await install(db);
  // A clock that stands still: beyond either end.
  const clocks = [
    { offset: "9999999999999999", clockMicros: MAX_CLOCK_MICROS },
    { offset: "-9999999999999999", clockMicros: 0n },
  ];
  const lower = fc.oneof(fc.constant(0n), version);
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...clocks), lower, lower, async (clock, replaced, above) => {
      const highest = replaced > above ? replaced : above;
      fc.pre(highest >> 10n < MAX_MICROS);
      const [row] = await db.query<{ v: string; fresh: string }>(
        `WITH s AS MATERIALIZED (SELECT set_config('coregent.clock_offset_us', $1, true),
                                        set_config('coregent.stamp_above', $2, true))
         SELECT coregent.stamp($3) AS v, coregent.stamp() AS fresh FROM s`,
        [clock.offset, above === 0n ? "" : String(above), String(replaced)],
      );
      expect(BigInt(row?.v ?? 0)).toBe(
        nextVersion({ clockMicros: clock.clockMicros, region: 3, replaced: highest }),
      );
      expect(BigInt(row?.fresh ?? 0)).toBe(
        nextVersion({ clockMicros: clock.clockMicros, region: 3, replaced: above }),
      );
    }),
    runs(200),
  );
  await expect(db.query("SELECT coregent.stamp($1)", [String(pack(MAX_MICROS, 1))])).rejects.toMatchObject({
    code: "22003",
  });
});

test.each([
  "",
  "SET coregent.stamp_above = ''",
  "SET coregent.stamp_above = ''; SET coregent.clock_offset_us = 'x'",
  // By itself it moves no stamp.
  "SET coregent.clock_offset_us = '3600000000'",
])("a stamp is the server's clock, to the microsecond (%s)", async (settings) => {
  await using db = await createDatabase();
  await install(db);
  await db.query(settings);
  const [row] = await db.query<{ ok: boolean }>(
    `SELECT bool_and(stamped - (extract(epoch FROM began) * 1000000)::bigint BETWEEN 0 AND 60000000
                   AND stamped <= (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) AS ok
         FROM (SELECT clock_timestamp() AS began, ARRAY[coregent.stamp() >> 10, coregent.stamp(0) >> 10] AS stamps
                 FROM generate_series(1, 1000) OFFSET 0) s, unnest(stamps) AS stamped`,
  );
  expect(row?.ok).toBe(true);
});
