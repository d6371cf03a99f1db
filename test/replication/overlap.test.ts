import { Buffer } from "node:buffer";
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Column, ReplicatedTable } from "../../src/postgres/table.ts";
import type { Batch } from "../../src/replication/batch.ts";
import { overlap } from "../../src/replication/overlap.ts";
import { runs } from "../conflict/runs.ts";
import { batchOf, type Given } from "./merge-fixture.ts";
import { at, row, tombstone } from "./merge-helpers.ts";
import { int64, sampleTable } from "./pgoutput.ts";

/** The sample table with a key of so many columns; its type does not matter here, where nothing is sent. */
const keyed = (name: string, columns: number): ReplicatedTable => {
  const table = sampleTable(name);
  const [id, ...others] = table.columns as readonly [Column, ...Column[]];
  const [, ...state] = table.tombstoneColumns;
  const key = Array.from({ length: columns }, (_, i) => ({ ...id, name: `k${i}` }));
  return {
    ...table,
    key: key.map((column) => column.name),
    columns: [...key, ...others],
    tombstoneColumns: [...key, ...state],
  };
};

const kinds = ["row", "partial", "tombstone"] as const;

/** A key of one table, its fields as bytes. */
interface Key {
  readonly table: "t" | "u";
  readonly fields: readonly Buffer[];
  readonly kind: (typeof kinds)[number];
}

const stateOf = ({ fields, kind }: Key): Given => {
  const key = Object.fromEntries(fields.map((field, i) => [`k${i}`, field]));
  if (kind === "tombstone") return { state: tombstone(at(1, 2)), fields: key };
  const rest = kind === "partial" ? { owner: "o" } : { big: "x", owner: "o" };
  return {
    state: row(at(1, 2)),
    fields: { ...key, ...rest },
    unchanged: kind === "partial" ? ["big"] : [],
  };
};

const partsOf = (keys: readonly Key[], columns: number): Pick<Batch, "tables"> => ({
  tables: ["t", "u"].flatMap((name) => {
    const given = keys.filter(({ table }) => table === name).map(stateOf);
    return given.length === 0 ? [] : [batchOf(keyed(name, columns), given)];
  }),
});

const idOf = ({ table, fields }: Key): string =>
  [table, ...fields.map((field) => field.toString("hex"))].join(" ");

const text = fc.oneof(
  fc.string({ maxLength: 3 }),
  fc.string({ maxLength: 2 }).map((end) => `the same start ${end}`),
);
const length = fc.constantFrom(0, 1, 2, 253, 254, 255, 256, 257, 300);
const int = fc.bigInt(-(2n ** 63n), 2n ** 63n - 1n).map(int64);
const uuid = fc.uint8Array({ minLength: 16, maxLength: 16 }).map((bytes) => Buffer.from(bytes));

const keyTypes: Readonly<Record<string, fc.Arbitrary<readonly Buffer[]>>> = {
  uuid: uuid.map((id) => [id]),
  bigint: fc
    .oneof(
      int,
      fc.integer({ min: -9, max: 99 }).map((n) => int64(BigInt(n))),
    )
    .map((id) => [id]),
  "bytes that begin alike": fc
    .tuple(
      fc.constantFrom("", "\0", "\u{ff}", "\u{ff}\u{ff}\u{ff}\u{ff}\u{ff}\u{ff}"),
      fc.string({ maxLength: 2 }),
    )
    .map((parts) => [Buffer.from(parts.join(""), "latin1")]),
  text: text.map((id) => [Buffer.from(id)]),
  "(text, bigint)": fc.tuple(
    text.map((id) => Buffer.from(id)),
    int,
  ),
  // Longer than what one byte of a prefix counts to.
  "(text, text), some of them long": fc
    .tuple(length, length, fc.constantFrom("a", "b", "\u{7f}"), text)
    .map(([one, two, letter, end]) => [
      Buffer.from(letter.repeat(one)),
      Buffer.from(end + letter.repeat(two)),
    ]),
};

describe.each(Object.keys(keyTypes))("keys: %s", (type) => {
  test("two batches overlap if a set of their keys' bytes says so, as rows or tombstones", () => {
    const key: fc.Arbitrary<Key> = fc.record({
      table: fc.constantFrom("t" as const, "t" as const, "u" as const),
      fields: keyTypes[type]!,
      kind: fc.constantFrom(...kinds),
    });
    const seen = new Set<boolean>();
    fc.assert(
      fc.property(
        fc.array(fc.tuple(key, fc.boolean()), { maxLength: 80, size: "max" }),
        fc.option(fc.tuple(fc.nat(), fc.constantFrom(...kinds))),
        (keys, shared) => {
          const distinct = [...new Map(keys.map((each) => [idOf(each[0]), each])).values()];
          const [one, other] = [true, false].map((side) =>
            distinct.flatMap(([each, first]) => (first === side ? [each] : [])),
          ) as [Key[], Key[]];
          const again = shared === null ? undefined : one[shared[0] % one.length];
          if (again !== undefined) other.push({ ...again, kind: shared![1] });
          const columns = one[0]?.fields.length ?? other[0]?.fields.length ?? 1;
          const [a, b] = [partsOf(one, columns), partsOf(other, columns)];
          const ids = new Set(one.map(idOf));
          const expected = other.some((each) => ids.has(idOf(each)));
          seen.add(expected);
          expect([overlap(a, b), overlap(b, a)]).toEqual([expected, expected]);
        },
      ),
      runs(300),
    );
    expect(seen.size).toBe(2);
  });
});

test("whatever the number of their states, batches agree on the order of keys with long parts", () => {
  const key = (first: string): Key => ({
    table: "t",
    fields: [Buffer.from(first.padEnd(first.startsWith("aaaab") ? 256 : 255, "x")), Buffer.from("")],
    kind: "row",
  });
  const shared = key("aaaab");
  const many = Array.from({ length: 40 }, (_, i) => key(`b${i}`));
  const [large, small] = [partsOf([shared, key("aaaac"), ...many], 2), partsOf([shared], 2)];
  expect([overlap(large, small), overlap(small, large)]).toEqual([true, true]);
});
