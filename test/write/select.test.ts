import fc from "fast-check";
import { expect, test } from "vitest";
import type { Comparison, Filter, Order, SelectOperation } from "../../src/write/operation.ts";
import { createMaster, insert, type Master, select } from "./fixture.ts";

const filter = (column: string, comparison: Comparison, ...values: string[]): Filter => ({
  column,
  comparison,
  values,
  negated: false,
});
const by = (column: string, descending = false, nullsFirst: boolean | null = null): Order => ({
  column,
  descending,
  nullsFirst,
});

const ids = async (master: Master, changes: Partial<SelectOperation>): Promise<number[]> =>
  (await master.rows(select("t", changes))).map((row) => (row as { id: number }).id);

const schema =
  "CREATE TABLE t (id int PRIMARY KEY, x text, n numeric, b boolean, a int[], j jsonb, at timestamptz)";

test("filters compare as the column's type does", async () => {
  await using master = await createMaster(schema);
  await master.run(
    insert(
      "t",
      { id: 1, x: "abc", n: 9, b: true, a: [1, 2], at: "2026-01-01" },
      { id: 2, x: 'a,"c', n: 10.5, b: false, a: [] },
      { id: 10, x: null, n: null, b: null, j: { a: 1 } },
    ),
  );
  const cases: readonly [filter: Filter, ids: number[]][] = [
    [filter("id", "eq", "2"), [2]],
    [filter("id", "neq", "2"), [1, 10]],
    [filter("id", "gt", "2"), [10]],
    [filter("n", "gte", "10.50"), [2]],
    [filter("n", "lt", "10"), [1]],
    [filter("at", "lte", "2026-01-01T00:00:00Z"), [1]],
    [filter("x", "like", "a*"), [1, 2]],
    [filter("x", "ilike", "ABC"), [1]],
    [filter("id", "like", "1%"), [1, 10]],
    [filter("x", "in", 'a,"c', "abc"), [1, 2]],
    [filter("id", "in"), []],
    [filter("x", "is", "null"), [10]],
    [filter("b", "is", "TRUE"), [1]],
    [filter("b", "is", "unknown"), [10]],
    [{ ...filter("x", "is", "null"), negated: true }, [1, 2]],
    [{ ...filter("b", "is", "true"), negated: true }, [2, 10]],
    [filter("a", "eq", "{1,2}"), [1]],
    [filter("j", "eq", '{"a": 1.0}'), [10]],
  ];
  for (const [one, expected] of cases) {
    expect(await ids(master, { filters: [one] }), JSON.stringify(one)).toEqual(expected);
  }
  expect(await ids(master, { filters: [filter("id", "gt", "1"), filter("b", "is", "false")] })).toEqual([2]);
});

test("a filter that makes no sense is refused as the caller's fault", async () => {
  await using master = await createMaster(`${schema}; ALTER TABLE t ADD k json, ADD p point`);
  const cases: readonly [Partial<SelectOperation>, string][] = [
    [{ filters: [filter("missing", "eq", "1")] }, "column-unknown"],
    [{ filters: [filter("cg_version", "gt", "0")] }, "column-unknown"],
    [{ filters: [filter("id", "eq", "1 OR true")] }, "value-invalid"],
    [{ filters: [filter("id", "eq", "\0")] }, "value-invalid"],
    [{ filters: [filter("x", "eq", "\ud800")] }, "value-invalid"],
    [{ filters: [filter("id", "is", "1")] }, "parameter-invalid"],
    [{ filters: [filter("id", "is", "true")] }, "parameter-invalid"],
    [{ filters: [filter("a", "in", "{1}")] }, "parameter-invalid"],
    [{ filters: [filter("k", "eq", "{}")] }, "parameter-invalid"],
    [{ filters: [filter("p", "gt", "(1,1)")] }, "parameter-invalid"],
    [{ order: [by("k")] }, "parameter-invalid"],
    [{ order: [by("missing")] }, "column-unknown"],
    [{ columns: ["cg_prev"] }, "column-unknown"],
    [{ filters: [filter("x", "like", "\\")] }, "value-invalid"],
    [{ after: "nonsense" }, "parameter-invalid"],
    [{ after: Buffer.from('["x",[1]]').toString("base64url") }, "parameter-invalid"],
    [{ after: "A".repeat(100_000) }, "parameter-invalid"],
  ];
  await master.run(insert("t", { id: 1, x: "x", k: {}, p: "(0,0)" }));
  for (const [changes, code] of cases) {
    await expect(
      master.run(select("t", changes)),
      JSON.stringify(changes).slice(0, 200),
    ).rejects.toMatchObject({ code });
  }
});

test("columns, count, limit and offset", async () => {
  await using master = await createMaster(schema);
  await master.run(insert("t", ...[1, 2, 3, 4, 5].map((id) => ({ id, n: id }))));
  const [page] = await master.run(
    select("t", {
      columns: ["n", "n"],
      order: [by("id", true)],
      limit: 2,
      offset: 1,
      count: true,
      filters: [filter("id", "gt", "1")],
    }),
  );
  expect(page).toMatchObject({ rows: ['{"n":"4"}', '{"n":"3"}'], keys: [["4"], ["3"]], count: 4 });
  expect(page?.next).not.toBeNull();
  const [none] = await master.run(select("t", { columns: [], limit: 0, count: true }));
  expect(none).toMatchObject({ rows: [], keys: [], count: 5, next: null });
});

test("a page of long rows ends early, keeps one at least, and goes on", async () => {
  await using master = await createMaster("CREATE TABLE t (id int PRIMARY KEY, x text)");
  await master.db.query("INSERT INTO t SELECT n, repeat('x', 1500000) FROM generate_series(1, 5) n");
  await master.db.query("INSERT INTO t VALUES (6, repeat('y', 9000000)), (7, 'z')");
  const sizes: number[] = [];
  let after: string | null = null;
  do {
    const [page] = await master.run(select("t", { after }));
    sizes.push(page?.rows.length ?? 0);
    after = page?.next ?? null;
  } while (after !== null && sizes.length < 10);
  expect(sizes).toEqual([2, 2, 1, 1, 1]);
});

/** Lemma: pages joined together are the whole list, for any order, with NULLs and equal values on every side. */
test("pages that go on after a row neither skip nor repeat one", async () => {
  await using master = await createMaster(
    "CREATE TABLE t (id int, part text, x text, n int NOT NULL, at timestamptz, PRIMARY KEY (part, id))",
  );
  const rows = Array.from({ length: 40 }, (_, id) => ({
    id,
    part: `p${id % 3}`,
    x: [null, "", "a", "B"][id % 4] ?? null,
    n: id % 5,
    at: id % 7 === 0 ? null : `2026-01-0${(id % 6) + 1}T00:00:00.00000${id % 2}Z`,
  }));
  await master.run(insert("t", ...rows));
  const order = fc.uniqueArray(
    fc.record({
      column: fc.constantFrom("id", "part", "x", "n", "at"),
      descending: fc.boolean(),
      nullsFirst: fc.constantFrom(null, true, false),
    }),
    { maxLength: 3, selector: ({ column }) => column },
  );
  await fc.assert(
    fc.asyncProperty(order, fc.integer({ min: 3, max: 15 }), async (order, limit) => {
      const [whole] = await master.run(select("t", { order, limit: 100 }));
      const pages: string[] = [];
      let after: string | null = null;
      do {
        const [page] = await master.run(select("t", { order, limit, after, columns: ["at", "id"] }));
        pages.push(...(page?.keys.map(String) ?? []));
        after = page?.next ?? null;
      } while (after !== null && pages.length < 100);
      expect(pages).toEqual(whole?.keys.map(String));
    }),
    { numRuns: 60 },
  );
});
