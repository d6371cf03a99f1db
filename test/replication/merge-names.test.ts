import { expect, test } from "vitest";
import type { State } from "../../conflict/state.ts";
import { identifier, list } from "../../src/postgres/identifiers.ts";
import { takenNames } from "../support/column-names.ts";
import { batchOf, MergeRegion } from "./merge-fixture.ts";
import { at, mergeNow, row, tombstone } from "./merge-helpers.ts";

/** Users' columns may be called whatever the merging statements call their aliases and columns. */

const columns = takenNames.map((name) => `${identifier(name)} text`).join(", ");
const schema = `
CREATE TABLE keyed (home text, val text, ${columns}, PRIMARY KEY (${list(takenNames)}));
CREATE TABLE owned (home text, val text, ${columns}, PRIMARY KEY (${list(takenNames)}));
CREATE TABLE plain (id text PRIMARY KEY, home text, val text, ${columns});`;

test.each([
  ["keyed", 18, "role"],
  ["keyed", 16, "role"],
  ["owned", 18, "role"],
  ["plain", 18, "id"],
] as const)(
  "columns that are called as ours are, of the table %s, merge under PostgreSQL %i",
  async (name, version, key) => {
    await using region = await MergeRegion.create({ schema, owners: { owned: "home" }, version });
    const session = await region.session();
    const table = region.table(name);
    const merge = (states: readonly State[], unchanged: readonly string[] = []) => {
      const given = states.map((state, n) => {
        const keys = Object.fromEntries(table.key.map((column) => [column, `k${n}`]));
        const others = Object.fromEntries(takenNames.map((column) => [column, `k${n}`]));
        const fields = state.kind === "row" ? { home: "r2", ...others, ...keys, val: `v${n}` } : keys;
        const held = Object.entries(fields).filter(([column]) => !unchanged.includes(column));
        return { state, fields: Object.fromEntries(held), unchanged };
      });
      return mergeNow(session, batchOf(table, given));
    };
    const rows = (count: number, from: number, prev?: number): State[] =>
      Array.from({ length: count }, (_, n) =>
        row(at(from + n, 2), prev === undefined ? {} : { prev: at(prev + n, 2) }),
      );
    const dead = (count: number, from: number, prev: number): State[] =>
      Array.from({ length: count }, (_, n) => tombstone(at(from + n, 2), { prev: at(prev + n, 2) }));
    const left = async (): Promise<number> => (await region.db.query(`SELECT FROM ${name}`)).length;

    expect(await merge(rows(300, 0))).toMatchObject({ rowsMerged: 300, conflicts: [] });
    expect(await merge(rows(9, 1000, 0))).toMatchObject({ rowsMerged: 9, conflicts: [] });
    expect(await merge(rows(9, 2000, 1000), ["val"])).toMatchObject({ rowsMerged: 9, conflicts: [] });
    // What was written here is not known to the other region.
    await region.db.query(`UPDATE ${name} SET val = 'here' WHERE ${identifier(key)} IN ('k0', 'k1')`);
    const lost = await merge([row(at(3000, 2), { prev: at(2000, 2) })]);
    expect(lost).toMatchObject({ conflicts: [{ count: 1 }] });
    expect(await merge(dead(9, 4000, 2000))).toMatchObject({ tombstonesMerged: 9, rowsSwept: 7 });
    expect(await left()).toBe(293);
    expect(await merge(dead(300, 5000, 0))).toMatchObject({ rowsSwept: 291 });
    expect(await left()).toBe(2);
    // Upon tombstones, and one below its tombstone: that row goes again.
    expect(await merge([...rows(9, 6000, 5000), row(at(1, 2))])).toMatchObject({ rowsMerged: 8 });
    expect(await left()).toBe(9);
    await region.db.query(`DELETE FROM ${name}`);
    expect(await left()).toBe(0);
    const logged = await region.db.query<{ key: string }>("SELECT key FROM coregent.conflict ORDER BY key");
    expect(logged[0]?.key).toBe(`[${table.key.map(() => '"k0"').join(", ")}]`);
  },
);
