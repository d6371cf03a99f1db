import { request as httpRequest } from "node:http";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Api, createApi } from "./api-fixture.ts";

/**
 * FAULTS 46 and 47: whatever a caller sends, the answer is never a 5xx, a refusal says why in a form that programs read,
 * and a request that was refused has changed nothing.
 */
const schema = `
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE TABLE t (
  id int PRIMARY KEY, x text, n numeric(6, 2), big bigint, f float8, b boolean, c char(3), y bytea, d date, tz timestamptz,
  j json, jb jsonb, u uuid, e mood, p positive, ia int[], ta text[], r int4range, i interval, k point, ip inet,
  g int GENERATED ALWAYS AS (id + 1) STORED, UNIQUE (x), CHECK (n <> 13));
CREATE TABLE child (id uuid PRIMARY KEY, parent int REFERENCES t);
CREATE TABLE "a""b; DROP TABLE t" ("__proto__" text, "constructor" text, PRIMARY KEY ("__proto__", "constructor"));
INSERT INTO t (id, x) SELECT n, 'x' || n FROM generate_series(1, 5) n`;

let api: Api;
beforeAll(async () => {
  api = await createApi(schema);
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

interface Asked {
  readonly method: string;
  readonly path: string;
  readonly headers: Record<string, string>;
  readonly body: Buffer | null;
}

const ask = ({
  method,
  path,
  headers,
  body,
}: Asked): Promise<{ status: number; type: string; text: string }> =>
  new Promise((resolve, reject) => {
    const length = body === null ? {} : { "content-length": String(body.length) };
    const sent = httpRequest(
      { port: api.port, host: "127.0.0.1", method, path, headers: { ...headers, ...length } },
      (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.on("end", () => {
          const type = response.headers["content-type"] ?? "";
          resolve({ status: response.statusCode ?? 0, type, text: Buffer.concat(chunks).toString() });
        });
      },
    );
    sent.on("error", reject);
    sent.end(body ?? undefined);
  });

const contents = async (): Promise<unknown> =>
  api.db.query(`SELECT (SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY id), '')) FROM t) AS t,
    (SELECT count(*) FROM child) AS child, (SELECT count(*) FROM "a""b; DROP TABLE t") AS odd`);

const columns = [
  ..."id x n big f b c y d tz j jb u e p ia ta r i k ip g missing cg_version __proto__ constructor".split(
    " ",
  ),
  'x"; DROP TABLE t; --',
  "x = x OR true",
  "",
];
const oddTexts = [
  "",
  "\0",
  "\ud800",
  "'; DROP TABLE t; --",
  '"',
  "null",
  "NaN",
  "1e999",
  "-0",
  "infinity",
  "{1,2}",
  "{{",
  "\\x00",
  "\\",
  "2026-02-30",
  "good",
  "0197e0c4-7f2a-7000-8000-000000000001",
  "99999999999999999999",
  "$1",
  "😀",
  "é",
  "a".repeat(5_000),
];
const text = fc.oneof(fc.constantFrom(...oddTexts), fc.string(), fc.string({ unit: "binary" }));
const columnName = fc.oneof({ weight: 5, arbitrary: fc.constantFrom(...columns) }, text);
const scalar = fc.oneof(
  fc.integer(),
  fc.double(),
  fc.boolean(),
  fc.constant(null),
  text,
  fc.constantFrom(1, 2, 3),
);
const value = fc.oneof({ weight: 4, arbitrary: scalar }, fc.jsonValue({ maxDepth: 4 }), fc.array(scalar));
const object = fc.array(fc.tuple(columnName, value), { maxLength: 6 }).map(
  // As text, so that members such as __proto__ and names given twice come through.
  (members) =>
    `{${members.map(([name, item]) => `${JSON.stringify(name)}:${JSON.stringify(item)}`).join(",")}}`,
);
/** Values that the column takes. */
const fitting: Readonly<Record<string, readonly unknown[]>> = {
  x: ["y", "$1", "'; DROP TABLE t; --", "😀"],
  n: [1.5, 13, "99.99", 13, 100_000],
  big: ["9223372036854775807", 5],
  f: [1e300, "NaN"],
  b: [true, "f"],
  c: ["abc", "abcd"],
  tz: ["2026-01-02T03:04:05Z", "infinity"],
  j: [{ a: [1] }, "text", null],
  jb: [{ a: { b: null } }, []],
  e: ["good", "bad"],
  p: [1, 0, -1],
  ia: [[1, 2], [[1], [2]], "{}"],
  ta: [["a,b", null], []],
};
const row = fc
  .tuple(
    fc.nat({ max: 30 }),
    fc.subarray(Object.keys(fitting), { maxLength: 4 }),
    fc.nat(),
    fc.oneof(
      { weight: 5, arbitrary: fc.constant([]) },
      { weight: 1, arbitrary: fc.array(fc.tuple(columnName, value)) },
    ),
  )
  .map(([id, names, pick, odd]) =>
    JSON.stringify(
      Object.fromEntries([
        ["id", id],
        ...names.map((name) => [name, fitting[name]?.[pick % fitting[name].length]]),
        ...odd,
      ]),
    ),
  );
const list = (item: fc.Arbitrary<string>) =>
  fc.array(item, { maxLength: 4 }).map((items) => `[${items.join(",")}]`);
const numbers = fc.constantFrom("1.10", "12345678901234567890.5", "1e400", "-0", "[1.0,{}]");
const operation = fc.record({
  op: fc.constantFrom(
    "insert",
    "upsert",
    "update",
    "delete",
    "select",
    "insert",
    "update",
    "drop",
    "__proto__",
  ),
  table: fc.constantFrom("t", "t", "t", "public.t", "child", "missing", "pg_class"),
  rest: fc.oneof(fc.constantFrom("id=gt.2", "order=x"), text),
  body: fc.oneof({ weight: 4, arbitrary: row }, object),
  key: fc.oneof({ weight: 4, arbitrary: fc.nat({ max: 12 }) }, value),
});
const transaction = fc
  .array(operation, { maxLength: 3 })
  .map((all) =>
    all.map(({ op, table, rest, body, key }) => {
      const part =
        op === "insert" || op === "upsert"
          ? `"rows":${body}`
          : op === "update"
            ? `"key":${JSON.stringify(key)},"set":${body}`
            : op === "delete"
              ? `"key":${JSON.stringify(key)}`
              : `"query":${JSON.stringify(rest)}`;
      return `{"op":"${op}","table":"${table}",${part}}`;
    }),
  )
  .map((all) => `{"operations":[${all.join(",")}]}`);

const bytes = fc.oneof(
  { weight: 12, arbitrary: row.map((json) => Buffer.from(json)) },
  { weight: 4, arbitrary: list(row).map((json) => Buffer.from(json)) },
  { weight: 3, arbitrary: object.map((json) => Buffer.from(json)) },
  { weight: 1, arbitrary: list(object).map((json) => Buffer.from(json)) },
  { weight: 2, arbitrary: fc.json({ maxDepth: 6 }).map((json) => Buffer.from(json)) },
  { weight: 1, arbitrary: numbers.map((json) => Buffer.from(json)) },
  { weight: 1, arbitrary: fc.uint8Array({ maxLength: 50 }).map((array) => Buffer.from(array)) },
  {
    weight: 1,
    arbitrary: fc
      .constantFrom("[".repeat(5_000), '{"x":"\\ud800"}', '{"x":"\\u0000"}', "{")
      .map((json) => Buffer.from(json)),
  },
);

const encoded = (part: string): string => encodeURIComponent(part.toWellFormed());
const filter = fc
  .tuple(
    columnName,
    fc.constantFrom(
      "eq.",
      "neq.",
      "gt.",
      "lte.",
      "like.",
      "ilike.",
      "in.",
      "in.(",
      "is.",
      "not.eq.",
      "not.is.",
      "x.",
      "",
    ),
    text,
    fc.constantFrom("", ")"),
  )
  .map(([column, operator, argument, end]) => `${encoded(column)}=${encoded(operator + argument + end)}`);
const listParameter = fc
  .tuple(
    fc.constantFrom("select", "order", "limit", "offset", "after"),
    fc.oneof(columnName, text, fc.nat().map(String)),
  )
  .map(([name, argument]) => `${name}=${encoded(argument)}`);
const fittingQuery = fc.constantFrom(
  "?select=id,x&order=x.desc.nullslast&limit=2",
  "?id=gt.2&x=like.x*",
  "?x=in.(x1,%22x2%22)&n=is.null",
  "?e=not.eq.good&order=tz,f.desc",
  "?jb=eq.{}&ia=neq.{1}",
);
const oddQuery = fc
  .array(fc.oneof(filter, listParameter, fc.constantFrom("%", "%ff=1", "=", "a=%zz", "&&")), { maxLength: 3 })
  .map((parts) => (parts.length === 0 ? "" : `?${parts.join("&")}`));
const listQuery = fc.oneof({ weight: 1, arbitrary: fittingQuery }, { weight: 2, arbitrary: oddQuery });
const rowQuery = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom("", "?select=id") },
  { weight: 1, arbitrary: oddQuery },
);
const key = fc.oneof(
  { weight: 3, arbitrary: fc.nat({ max: 12 }).map(String) },
  fc.constantFrom("1", "2", "9", "x", "1,2", "%2C", "%00", "%ff", "%", ","),
  text.map(encoded),
);
const table = fc.oneof(
  { weight: 12, arbitrary: fc.constantFrom("t", "t", "public.t", "child", encoded('a"b; DROP TABLE t')) },
  fc.constantFrom(
    "missing",
    "pg_class",
    "coregent.local",
    "%00",
    encoded("t; DROP TABLE t"),
    "..",
    "__proto__",
  ),
  text.map(encoded),
);
const rows = fc.tuple(table, rowQuery).map(([name, q]) => `/v1/tables/${name}/rows${q}`);
const lists = fc.tuple(table, listQuery).map(([name, q]) => `/v1/tables/${name}/rows${q}`);
const oneRow = fc.tuple(table, key, rowQuery).map(([name, k, q]) => `/v1/tables/${name}/rows/${k}${q}`);
const headers = fc.record(
  {
    "content-type": fc.constantFrom(
      "application/json",
      "application/json; charset=latin1",
      "text/plain",
      "x",
    ),
    "if-match": fc.constantFrom("*", '"1"', '"1.1"', "1", '"', 'W/"x", "99999999999999999999"', ""),
    "if-none-match": fc.constantFrom("*", '"1"', "x"),
    prefer: fc.constantFrom(
      "return=minimal",
      "count=exact",
      "wait=x",
      "durable=-1",
      "wait=1;;,,=",
      "resolution=merge-duplicates",
    ),
    "coregent-session": fc.constantFrom("x", "AAAA", "", "a".repeat(6_000)),
    "idempotency-key": fc.constantFrom("a", '"', "", "a".repeat(300), '"ok"'),
  },
  { requiredKeys: [] },
);
/** Most requests with usual headers, else few get behind them. */
const usualHeaders = fc.oneof(
  { weight: 4, arbitrary: fc.constant({ "content-type": "application/json" }) },
  { weight: 1, arbitrary: headers },
);

const asking = (
  method: string,
  path: fc.Arbitrary<string>,
  body: fc.Arbitrary<Buffer | null>,
): fc.Arbitrary<Asked> => fc.record({ method: fc.constant(method), path, headers: usualHeaders, body });
const none = fc.constant(null);
const asked = fc.oneof(
  { weight: 6, arbitrary: asking("POST", rows, bytes) },
  { weight: 5, arbitrary: asking("GET", lists, none) },
  { weight: 2, arbitrary: asking("GET", oneRow, none) },
  { weight: 4, arbitrary: asking("PATCH", oneRow, bytes) },
  { weight: 4, arbitrary: asking("PUT", oneRow, bytes) },
  { weight: 2, arbitrary: asking("DELETE", oneRow, fc.oneof(none, bytes)) },
  {
    weight: 3,
    arbitrary: asking(
      "POST",
      fc.constant("/v1/transactions"),
      fc.oneof({ weight: 4, arbitrary: transaction.map((json) => Buffer.from(json)) }, bytes),
    ),
  },
);

test("no request is answered with a 5xx, and none that was refused has an effect", async () => {
  const statuses = new Map<string, number>();
  let before = await contents();
  await fc.assert(
    fc.asyncProperty(asked, async (request) => {
      const answer = await ask(request);
      const kind = `${answer.status} ${/"code":"([^"]+)/.exec(answer.text)?.[1] ?? ""}`;
      statuses.set(kind, (statuses.get(kind) ?? 0) + 1);
      expect(answer.status, answer.text).toBeLessThan(500);
      const after = await contents();
      if (answer.status >= 400) {
        expect(answer.type).toBe("application/problem+json; charset=utf-8");
        const problem = JSON.parse(answer.text) as Record<string, unknown>;
        expect(problem).toMatchObject({ status: answer.status, retryable: false, region: "moldova" });
        expect(answer.text).not.toMatch(/node_modules|at .*\.ts|cg_version.*cg_prev/);
        expect(after).toEqual(before);
      } else if (answer.text !== "") {
        JSON.parse(answer.text);
      }
      before = after;
    }),
    { numRuns: 2_400, interruptAfterTimeLimit: 45_000, endOnFailure: true },
  );
  expect(api.internal).toEqual([]);
  // The generator is worth something only if much of it gets through.
  for (const kind of [
    "200 ",
    "201 ",
    "204 ",
    "400 value-invalid",
    "409 unique-violation",
    "422 check-violation",
  ]) {
    expect(statuses.get(kind), kind).toBeGreaterThan(2);
  }
}, 90_000);
