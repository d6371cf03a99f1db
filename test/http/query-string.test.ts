import { describe, expect, test } from "vitest";
import { parseListQuery, parseSelectOnly } from "../../src/http/query-string.ts";

const refusal = expect.objectContaining({ code: "parameter-invalid" }) as object;

describe("filters", () => {
  test.each([
    ["a=eq.5", { column: "a", comparison: "eq", negated: false, values: ["5"] }],
    ["a=eq.", { column: "a", comparison: "eq", negated: false, values: [""] }],
    ["a=not.like.x.y*", { column: "a", comparison: "like", negated: true, values: ["x.y*"] }],
    ["a=eq.b=c&", { column: "a", comparison: "eq", negated: false, values: ["b=c"] }],
    ["a+b=eq.c+d%2B", { column: "a b", comparison: "eq", negated: false, values: ["c d+"] }],
    ["a=is.null", { column: "a", comparison: "is", negated: false, values: ["null"] }],
    ["a=in.()", { column: "a", comparison: "in", negated: false, values: [] }],
    ["a=in.(1,,2)", { column: "a", comparison: "in", negated: false, values: ["1", "", "2"] }],
    [
      String.raw`a=in.("x,(y)","q\"\\",z)`,
      { column: "a", comparison: "in", negated: false, values: ["x,(y)", String.raw`q"\ `.trim(), "z"] },
    ],
    ["a=not.in.(%22%2C%22)", { column: "a", comparison: "in", negated: true, values: [","] }],
    ["__proto__=eq.1", { column: "__proto__", comparison: "eq", negated: false, values: ["1"] }],
  ])("%s", (query, filter) => {
    expect(parseListQuery(`/x?${query}`).filters).toEqual([filter]);
  });

  test.each([
    "a",
    "a=",
    "a=5",
    "a=equals.5",
    "a=not.5",
    "a=not.not.eq.5",
    "a=in.1,2",
    'a=in.("x)',
    'a=in.("x"y)',
    "a=%",
    "a=eq.%ff",
    "%ff=eq.1",
    `a=in.(${"1,".repeat(1001)})`,
    "a=eq.1&".repeat(101),
  ])("%s is refused", (query) => {
    expect(() => parseListQuery(`/x?${query}`)).toThrow(refusal);
  });
});

describe("order, columns and pages", () => {
  test("are read", () => {
    const query = parseListQuery(
      `/x?order=a,b.desc,"c.d,e".asc.nullsfirst,f.nullslast.desc&select=a,"b,c"&limit=0&offset=5`,
    );
    expect(query).toEqual({
      filters: [],
      columns: ["a", "b,c"],
      order: [
        { column: "a", descending: false, nullsFirst: null },
        { column: "b", descending: true, nullsFirst: null },
        { column: "c.d,e", descending: false, nullsFirst: true },
        { column: "f", descending: true, nullsFirst: false },
      ],
      limit: 0,
      offset: 5,
      after: null,
    });
    expect(parseListQuery("/x")).toMatchObject({ columns: null, order: [], limit: null, offset: 0 });
    expect(parseListQuery("/x?select=*").columns).toBeNull();
  });

  test.each([
    "limit=-1",
    "limit=1.5",
    "limit=",
    "limit=99999999999999999",
    "limit=1&limit=2",
    "offset=1000001",
    "offset=1&after=x",
    "order=a.up",
    "order=a.asc.desc",
    "order=a,,b",
    'order="a',
    "select=",
    "select=a,,b",
  ])("%s is refused", (query) => {
    expect(() => parseListQuery(`/x?${query}`)).toThrow(refusal);
  });

  test("a single row and a write take select only", () => {
    expect(parseSelectOnly("/x?select=a,b")).toEqual(["a", "b"]);
    expect(() => parseSelectOnly("/x?a=eq.1")).toThrow(refusal);
    expect(() => parseSelectOnly("/x?select=a&select=b")).toThrow(refusal);
  });
});
