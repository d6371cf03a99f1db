import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { systemClock } from "../../src/clock.ts";
import {
  UnknownTableError,
  verifyCluster,
  type VerifyOptions,
  type VerifyReport,
} from "../../src/replication/verify.ts";
import type { TableReport } from "../../src/replication/verify-report.ts";
import { Regions, v } from "./verify-fixture.ts";

const schema = `
CREATE TABLE item (id uuid PRIMARY KEY, note text, extra jsonb);
CREATE TABLE owned (a int, b text, home text, note text, PRIMARY KEY (b, a));
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, p int, q int CONSTRAINT child_q REFERENCES parent);
`;
const id = (n: number): string => `00000000-0000-0000-0000-${String(n).padStart(12, "0")}`;

let regions: Regions;
let itemTombstones: string;
beforeAll(async () => {
  regions = await Regions.create(3, schema, "tables:\n  - { name: public.owned, owner: home }\n");
  itemTombstones = await regions.tombstones("public.item");
});
afterAll(async () => {
  await regions[Symbol.asyncDispose]();
});
beforeEach(async () => {
  await regions.merged(
    `DELETE FROM item; DELETE FROM owned; DELETE FROM child; DELETE FROM parent; DELETE FROM ${itemTombstones};
     DELETE FROM coregent.quarantine; DELETE FROM coregent.table_sync; DELETE FROM coregent.progress`,
  );
});

const verify = async (options: VerifyOptions = {}): Promise<VerifyReport> =>
  await verifyCluster(regions.regions, { waitMs: 200, ...options });
/** Verifies; `looked` resolves when keys that differ have been read for the first time. */
const verifyWatched = (
  options: VerifyOptions,
): { readonly done: Promise<VerifyReport>; readonly looked: Promise<void> } => {
  const { promise: looked, resolve } = Promise.withResolvers<void>();
  const onProgress = (text: string): void => {
    if (text.includes("looking at")) resolve();
  };
  return { done: verify({ ...options, onProgress }), looked };
};
const tableOf = (report: VerifyReport, name: string): TableReport => {
  const table = report.tables.find((one) => one.name === name);
  if (table === undefined) throw new Error(`no ${name}`);
  return table;
};
/** Kind of each difference by key. */
const differences = (report: VerifyReport): Record<string, string> =>
  Object.fromEntries(
    report.tables.flatMap((table) => table.differences.map((one) => [`${table.name} ${one.key}`, one.kind])),
  );
const items = (from: number, to: number, step = 0): string =>
  `INSERT INTO item (id, note, cg_version)
   SELECT ('00000000-0000-0000-0000-' || lpad(i::text, 12, '0'))::uuid, 'n' || i, ${v(step, 1)} + i * 1024
     FROM generate_series(${from}, ${to}) i`;

describe("regions that hold the same", () => {
  test("are equal, whatever the order of insertion and of columns", async () => {
    await regions.merged(items(1, 500), 0);
    await regions.merged(`${items(251, 500)}; ${items(1, 250)}`, 1);
    await regions.merged(`${items(1, 500)}; UPDATE item SET note = note`, 2);
    await regions.merged(
      `INSERT INTO owned (a, b, home, cg_version, cg_base) VALUES (1, 'x', 'r1', ${v(1, 1)}, ${v(1, 1)})`,
    );
    const report = await verify({ deep: true });
    expect(report.verdict).toBe("equal");
    expect(report.reasons).toEqual([]);
    const { r1, r2 } = tableOf(report, "public.item").regions;
    expect(r1?.rows).toBe(500n);
    expect(r2).toEqual(r1);
  });

  test("tombstones that outrank nothing are left out", async () => {
    await regions.merged(`INSERT INTO ${itemTombstones} (id, cg_version) VALUES ('${id(1)}', ${v(1, 1)})`, 1);
    await regions.merged(items(5, 5));
    await regions.merged(`INSERT INTO ${itemTombstones} (id, cg_version) VALUES ('${id(5)}', ${v(0, 1)})`, 2);
    const report = await verify();
    expect(report.verdict).toBe("equal");
    expect(tableOf(report, "public.item").regions["r2"]?.tombstones).toBe(1n);
  });
});

describe("regions that differ", () => {
  test("a row missing, a row older, a row deleted elsewhere: narrowed to the keys, with both sides", async () => {
    await regions.merged(items(1, 3000));
    await regions.merged(`DELETE FROM item WHERE id = '${id(7)}'`, 1);
    await regions.merged(`UPDATE item SET cg_version = ${v(9_000_000, 2)} WHERE id = '${id(8)}'`, 2);
    await regions.merged(
      `DELETE FROM item WHERE id = '${id(9)}'; INSERT INTO ${itemTombstones} (id, cg_version) VALUES ('${id(9)}', ${v(9_000_000, 3)})`,
      0,
    );
    const report = await verify();
    expect(report.verdict).toBe("diverged");
    expect(differences(report)).toEqual({
      [`public.item ["${id(7)}"]`]: "states",
      [`public.item ["${id(8)}"]`]: "states",
      [`public.item ["${id(9)}"]`]: "states",
    });
    const states = tableOf(report, "public.item").differences.find((one) => one.key.includes(id(9)))?.states;
    expect(states?.["r1"]?.kind).toBe("tombstone");
    expect(states?.["r1"]?.version).toBe(BigInt(v(9_000_000, 3)));
    expect(states?.["r2"]?.kind).toBe("row");
  });

  test("versions swapped between two keys do not cancel out", async () => {
    await regions.merged(items(1, 2));
    await regions.merged(
      `UPDATE item SET cg_version = CASE id WHEN '${id(1)}' THEN ${v(0, 1)} + 2048 ELSE ${v(0, 1)} + 1024 END`,
      1,
    );
    expect(Object.values(differences(await verify()))).toEqual(["states", "states"]);
  });

  test("nor between two keys of one bucket", async () => {
    await regions.merged(items(1, 3000));
    const [pair] = await regions
      .at(0)
      .query<{ a: string; b: string }>(
        "SELECT min(id::text) AS a, max(id::text) AS b FROM item GROUP BY uuid_hash_extended(id, 0) & 1023 HAVING count(*) > 1 LIMIT 1",
      );
    await regions.merged(
      `UPDATE item SET cg_version = (SELECT o.cg_version FROM item o WHERE o.id IN ('${pair?.a}', '${pair?.b}') AND o.id <> item.id)
        WHERE id IN ('${pair?.a}', '${pair?.b}')`,
      1,
    );
    expect(Object.values(differences(await verify()))).toEqual(["states", "states"]);
  });

  test("bases of owned rows count; composite keys are shown whole", async () => {
    await regions.merged(
      `INSERT INTO owned (a, b, home, cg_version, cg_base) VALUES (1, 'x"y', 'r1', ${v(2, 2)}, ${v(1, 1)})`,
    );
    expect((await verify()).verdict).toBe("equal");
    await regions.merged("UPDATE owned SET cg_base = 0", 2);
    expect(differences(await verify())).toEqual({ 'public.owned ["x\\"y", "1"]': "states" });
  });

  test("a row which a tombstone of its own region outranks is not equal to one that is there", async () => {
    await regions.merged(items(1, 1));
    await regions.merged(`INSERT INTO ${itemTombstones} (id, cg_version) VALUES ('${id(1)}', ${v(5, 2)})`);
    await regions.merged("UPDATE item SET cg_version = cg_version - 4096", undefined);
    const report = await verify();
    expect(report.verdict).toBe("diverged");
    expect(tableOf(report, "public.item").differences[0]?.states["r1"]?.kind).toBe("unswept");
  });

  test("nor is it where one region alone holds the tombstone, and all show the row", async () => {
    await regions.merged(items(1, 1));
    await regions.merged(
      `INSERT INTO ${itemTombstones} (id, cg_version) VALUES ('${id(1)}', ${v(5_000, 2)})`,
      1,
    );
    const report = await verify();
    expect(report.verdict).toBe("diverged");
    const { r1, r2 } = tableOf(report, "public.item").differences[0]?.states ?? {};
    expect([r1?.kind, r2?.kind]).toEqual(["row", "unswept"]);
  });

  test("rows of one version and different content are seen with deep only", async () => {
    await regions.merged(items(1, 10));
    await regions.merged(`UPDATE item SET extra = '{"a": 1}' WHERE id = '${id(3)}'`, 1);
    expect((await verify()).verdict).toBe("equal");
    const report = await verify({ deep: true });
    expect(report.verdict).toBe("diverged");
    expect(differences(report)).toEqual({ [`public.item ["${id(3)}"]`]: "content" });
  });

  test("more differences than are shown are counted", async () => {
    await regions.merged(items(1, 300));
    await regions.merged("DELETE FROM item", 2);
    const table = tableOf(await verify({ limit: 5 }), "public.item");
    expect(table.differences.length).toBe(5);
    expect(table.counts.states).toBe(300);
  });
});

describe("what is on its way", () => {
  test("a difference that goes while it is looked at is no difference", async () => {
    await regions.merged(items(1, 50));
    await regions.merged("DELETE FROM item WHERE note LIKE 'n4%'", 2);
    const verifying = verifyWatched({ waitMs: 60_000 });
    await verifying.looked;
    await regions.merged(items(40, 49), 2);
    await regions.merged(items(4, 4), 2);
    const report = await verifying.done;
    expect(report.verdict).toBe("equal");
    expect(tableOf(report, "public.item").settled).toBeGreaterThan(0);
  });

  test("a key that is written all the time is settled when all regions are past what differed", async () => {
    await regions.merged(items(1, 5));
    await regions.merged(`UPDATE item SET cg_version = ${v(100, 1)} WHERE id = '${id(1)}'`, 0);
    const stop = new AbortController();
    const writing = (async () => {
      for (let step = 200; !stop.signal.aborted; step += 10) {
        for (const region of [0, 1, 2]) {
          await regions.merged(
            `UPDATE item SET cg_version = ${v(step + region, region + 1)} WHERE id = '${id(1)}'`,
            region,
          );
        }
      }
    })();
    const report = await verify({ waitMs: 5_000 });
    stop.abort();
    await writing;
    expect(report.verdict).toBe("equal");
  });

  test("a region that does not catch up with a moving key is degraded, not diverged", async () => {
    await regions.merged(items(1, 5));
    await regions.merged(`UPDATE item SET cg_version = ${v(100, 1)} WHERE id = '${id(1)}'`, 0);
    const stop = new AbortController();
    const writing = (async () => {
      for (let step = 200; !stop.signal.aborted; step += 10) {
        await regions.merged(`UPDATE item SET cg_version = ${v(step, 1)} WHERE id = '${id(1)}'`, 0);
      }
    })();
    const report = await verify({ waitMs: 400 });
    stop.abort();
    await writing;
    expect(report.verdict).toBe("degraded");
    expect(differences(report)).toEqual({ [`public.item ["${id(1)}"]`]: "moving" });
  });

  test("a link that has not passed its source's position: in flight", async () => {
    await regions.merged(items(1, 5));
    await regions.merged(`DELETE FROM item WHERE id = '${id(1)}'`, 1);
    const [local] = await regions
      .at(0)
      .query<{ incarnation: string }>("SELECT incarnation FROM coregent.local");
    const progress = (lsn: string): Promise<unknown> =>
      regions.at(1).query(
        `INSERT INTO coregent.progress (origin, incarnation, lsn) VALUES (1, $1, $2)
         ON CONFLICT (origin) DO UPDATE SET lsn = EXCLUDED.lsn`,
        [local?.incarnation, lsn],
      );
    await progress("0/1");
    const lagging = await verify();
    expect(lagging.verdict).toBe("degraded");
    expect(Object.values(differences(lagging))).toEqual(["inFlight"]);
    await progress("FFFFFFF/0");
    expect((await verify()).verdict).toBe("diverged");
  });
});

describe("what cannot be on its way", () => {
  const arrived = async (): Promise<void> => {
    const locals = await Promise.all(
      [0, 1, 2].map((at) =>
        regions.at(at).query<{ incarnation: string }>("SELECT incarnation FROM coregent.local"),
      ),
    );
    for (const [origin, [local]] of locals.entries()) {
      for (const at of [0, 1, 2].filter((each) => each !== origin)) {
        await regions
          .at(at)
          .query("INSERT INTO coregent.progress (origin, incarnation, lsn) VALUES ($1, $2, 'FFFFFFF/0')", [
            origin + 1,
            local?.incarnation,
          ]);
      }
    }
  };
  const forEver = 3_600_000;

  test("a difference is told without waiting where all links are past what was written", async () => {
    await regions.merged(items(1, 5));
    await regions.merged(`DELETE FROM item WHERE id = '${id(1)}'`, 1);
    await arrived();
    const report = await verify({ waitMs: forEver });
    expect(report.verdict).toBe("diverged");
    expect(Object.values(differences(report))).toEqual(["states"]);
  });

  test("but not of what a region wrote that is not compared: it may come from there", async () => {
    await regions.merged(items(1, 5));
    await regions.merged(`UPDATE item SET cg_version = ${v(100_000, 9)} WHERE id = '${id(1)}'`, 1);
    await arrived();
    const verifying = verify({ waitMs: forEver });
    await systemClock().sleep(2_500);
    await regions.merged(`UPDATE item SET cg_version = ${v(100_000, 9)} WHERE id = '${id(1)}'`);
    expect((await verifying).verdict).toBe("equal");
  });

  test("nor of what changes while it is looked at", async () => {
    await regions.merged(items(1, 5));
    await regions.merged(`UPDATE item SET cg_version = ${v(100, 1)} WHERE id = '${id(1)}'`, 0);
    await arrived();
    const verifying = verifyWatched({ waitMs: forEver });
    await verifying.looked;
    await regions.merged(`UPDATE item SET cg_version = ${v(200, 1)} WHERE id = '${id(1)}'`, 0);
    // Longer than it takes to tell a difference that does not move.
    await systemClock().sleep(2_000);
    await regions.merged(`UPDATE item SET cg_version = ${v(200, 1)} WHERE id = '${id(1)}'`);
    expect((await verifying.done).verdict).toBe("equal");
  });
});

describe("what is degraded", () => {
  test("a row quarantined in one region counts as held", async () => {
    await regions.merged(items(1, 5));
    await regions.merged(`UPDATE item SET cg_version = ${v(100, 1)} WHERE id = '${id(2)}'`, 0);
    await regions.merged(`UPDATE item SET cg_version = ${v(100, 1)} WHERE id = '${id(2)}'`, 1);
    await regions.at(2).query(
      `INSERT INTO coregent.quarantine (table_name, key, kind, version, origin, reason)
       VALUES ('public.item', '["${id(2)}"]', 'row', ${v(100, 1)}, 1, 'test')`,
    );
    const report = await verify();
    expect(report.verdict).toBe("degraded");
    expect(differences(report)).toEqual({ [`public.item ["${id(2)}"]`]: "quarantined" });
    expect(report.reasons).toContain("1 rows are quarantined");
    // What is held must be the same: an older state that is quarantined does not explain the difference.
    await regions.at(2).query(`UPDATE coregent.quarantine SET version = ${v(50, 1)}`);
    expect((await verify()).verdict).toBe("diverged");
  });

  test("a table that is being copied", async () => {
    await regions.merged(items(1, 5));
    await regions.merged("DELETE FROM item", 1);
    await regions
      .at(1)
      .query(
        "INSERT INTO coregent.table_sync (origin, table_name, kind, reason) VALUES (1, 'public.item', 'full', 'test')",
      );
    const report = await verify();
    expect(report.verdict).toBe("degraded");
    expect(tableOf(report, "public.item").resyncingIn).toEqual(["r2"]);
    expect(tableOf(report, "public.item").counts.resyncing).toBe(5);
  });

  test("rows that refer to nothing, by simple match", async () => {
    await regions.merged("INSERT INTO parent (id, cg_version) VALUES (1, 1025)");
    await regions.merged(
      "INSERT INTO child (id, q, cg_version) VALUES (1, 1, 1025), (2, NULL, 1025), (3, 33, 1025), (4, 44, 1025)",
    );
    const report = await verify({ limit: 1 });
    expect(report.verdict).toBe("degraded");
    expect(
      report.orphans.map((one) => [one.region, one.table, one.constraint, one.references, one.count]),
    ).toEqual(["r1", "r2", "r3"].map((region) => [region, "public.child", "child_q", "public.parent", 2n]));
    expect(report.orphans[0]?.keys.length).toBe(1);
  });

  test("a region that cannot be reached; the others are compared", async () => {
    await regions.merged(items(1, 5));
    const [r1, r2, r3] = regions.regions;
    if (r1 === undefined || r2 === undefined || r3 === undefined) throw new Error("three regions");
    const gone = { ...r3, url: "postgres://u@127.0.0.1:1/x" };
    const report = await verifyCluster([r1, r2, gone], { waitMs: 100 });
    expect(report.verdict).toBe("degraded");
    expect(report.regions.map((one) => one.problem === null)).toEqual([true, true, false]);
    await regions.merged(`DELETE FROM item WHERE id = '${id(1)}'`, 1);
    expect((await verifyCluster([r1, r2, gone], { waitMs: 100 })).verdict).toBe("diverged");
  });
});

test("one table can be asked for; one that is not there is named", async () => {
  const report = await verify({ tables: ["public.item"] });
  expect(report.tables.map((one) => one.name)).toEqual(["public.item"]);
  await expect(verify({ tables: ["public.itm"] })).rejects.toThrow(UnknownTableError);
});

test("an interruption ends the sessions at once", async () => {
  const controller = new AbortController();
  await regions.merged(items(1, 5));
  await regions.merged("DELETE FROM item", 1);
  const verifying = verify({ waitMs: 60_000, signal: controller.signal });
  await systemClock().sleep(200);
  controller.abort(new Error("enough"));
  await expect(verifying).rejects.toThrow("enough");
});
