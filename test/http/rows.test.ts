import { describe, expect, test } from "vitest";
import { createApi } from "./api-fixture.ts";

const schema = `
CREATE TABLE notes (id uuid PRIMARY KEY, body text NOT NULL, likes bigint NOT NULL DEFAULT 0, price numeric(10, 2), home text);
CREATE TABLE parts (a text, b int, c text, PRIMARY KEY (a, b))`;
const rows = "/v1/tables/notes/rows";

describe("one row", () => {
  test("is made with a ULID, read, changed, replaced and deleted", async () => {
    await using api = await createApi(schema, { owners: { "public.notes": "home" } });
    const made = await api.ask("POST", rows, { body: "first", likes: "9007199254740993", price: "1.50" });
    expect(made.status).toBe(201);
    const { id } = made.json as { id: string };
    expect(Date.now() - Number.parseInt(id.replaceAll("-", "").slice(0, 12), 16)).toBeLessThan(60_000);
    expect(made.text).toBe(
      `{"id":"${id}","body":"first","likes":"9007199254740993","price":"1.50","home":"moldova"}`,
    );
    expect(made.headers.get("location")).toBe(`/v1/tables/public.notes/rows/${id}`);
    expect(made.headers.get("coregent-region")).toBe("moldova");
    expect(made.headers.get("coregent-takeover")).toBe("false");
    const tag = made.headers.get("etag") ?? "";
    expect(tag).toMatch(/^"(\d+)\.\1"$/);

    const read = await api.ask("GET", made.headers.get("location") ?? "");
    expect([read.status, read.text, read.headers.get("etag")]).toEqual([200, made.text, tag]);
    const row = `${rows}/${id}`;
    expect((await api.ask("GET", row, undefined, { "if-none-match": `"1", W/${tag}` })).status).toBe(304);

    const changed = await api.ask("PATCH", `${row}?select=body`, { body: "second" }, { "if-match": tag });
    expect([changed.status, changed.text]).toEqual([200, '{"body":"second"}']);
    const late = await api.ask("PATCH", row, { body: "third" }, { "if-match": tag });
    expect(late.json).toMatchObject({ status: 412, code: "version-mismatch", retryable: false });

    const replaced = await api.ask("PUT", row, { body: "whole" });
    expect(replaced.json).toEqual({ id, body: "whole", likes: "0", price: null, home: "moldova" });
    expect(replaced.status).toBe(200);
    expect((await api.ask("PUT", row, { body: "x" }, { "if-none-match": "*" })).status).toBe(412);

    const gone = await api.ask("DELETE", row, undefined, { prefer: "return=minimal" });
    expect([gone.status, gone.text]).toEqual([204, ""]);
    expect((await api.ask("GET", row)).json).toMatchObject({ status: 404, code: "row-not-found" });
    expect((await api.ask("PATCH", row, { body: "x" })).status).toBe(404);
    const again = await api.ask("PUT", row, { id, body: "x" }, { prefer: "return=minimal" });
    expect([again.status, again.text]).toEqual([201, ""]);
    const read2 = await api.ask("HEAD", row);
    expect([read2.status, read2.headers.get("etag")]).toEqual([200, again.headers.get("etag")]);
    expect(api.internal).toEqual([]);
  });

  test("with a composite key, also one with commas, slashes and percent signs in it", async () => {
    await using api = await createApi(schema);
    const made = await api.ask("POST", "/v1/tables/parts/rows", { a: "x,y/%z\"'?", b: 1, c: "v" });
    const path = made.headers.get("location") ?? "";
    expect(path).toBe("/v1/tables/public.parts/rows/x%2Cy%2F%25z%22'%3F,1");
    expect((await api.ask("GET", path)).text).toBe(made.text);
    expect((await api.ask("PUT", path, { c: "w" })).json).toMatchObject({ c: "w", b: 1 });
    expect((await api.ask("PUT", path, { b: 2, c: "w" })).json).toMatchObject({
      code: "column-not-writable",
    });
    expect((await api.ask("GET", "/v1/tables/parts/rows/x")).json).toMatchObject({
      code: "parameter-invalid",
    });
    expect((await api.ask("DELETE", path)).status).toBe(204);
  });
});

describe("several rows", () => {
  test("are one transaction, in their order", async () => {
    await using api = await createApi(schema);
    const made = await api.ask("POST", `${rows}?select=body`, [
      { body: "a" },
      { body: "b", likes: 3 },
      { body: "c" },
    ]);
    expect([made.status, made.json]).toEqual([201, [{ body: "a" }, { body: "b" }, { body: "c" }]]);
    const refused = await api.ask("POST", rows, [{ body: "d" }, { body: null }]);
    expect(refused.json).toMatchObject({
      status: 422,
      code: "not-null-violation",
      column: "body",
      sqlState: "23502",
    });
    const minimal = await api.ask("POST", rows, [{ body: "d" }], { prefer: "return=minimal" });
    expect([minimal.status, minimal.text, minimal.headers.get("preference-applied")]).toEqual([
      201,
      "",
      "return=minimal",
    ]);
    const all = await api.ask("GET", `${rows}?select=body&order=id`);
    expect(all.json).toEqual([{ body: "a" }, { body: "b" }, { body: "c" }, { body: "d" }]);
  });

  test("are listed with filters, order and pages", async () => {
    await using api = await createApi(schema);
    const all = Array.from({ length: 25 }, (_, n) => ({
      a: `k,"${n % 2}`,
      b: n,
      c: n % 5 === 0 ? null : `c${n}`,
    }));
    await api.ask("POST", "/v1/tables/parts/rows", all);
    const list = async (query: string, headers = {}) =>
      api.ask("GET", `/v1/tables/parts/rows?${query}`, undefined, headers);
    const b = (answer: { json: unknown }) => (answer.json as { b: number }[]).map((row) => row.b);
    expect(b(await list("b=gte.3&b=lt.6&order=b.desc"))).toEqual([5, 4, 3]);
    expect(b(await list(`a=eq.${encodeURIComponent('k,"1')}&b=in.(1,2,3)`))).toEqual([1, 3]);
    expect(b(await list(`a=in.("k,\\"0","x")&limit=2`))).toEqual([0, 2]);
    expect(b(await list("c=is.null&order=b.desc&limit=2&offset=1"))).toEqual([15, 10]);
    expect(b(await list("c=not.is.null&c=like.c1*&b=lt.12"))).toEqual([1, 11]);
    const counted = await list("limit=10", { prefer: "count=exact" });
    expect(counted.headers.get("content-range")).toBe("items 0-9/25");

    const found: number[] = [];
    let next: string | null = "/v1/tables/parts/rows?order=c.desc.nullslast&limit=7&select=b";
    while (next !== null) {
      const page = await api.ask("GET", next);
      found.push(...b(page));
      next = /<([^>]+)>; rel="next"/.exec(page.headers.get("link") ?? "")?.[1] ?? null;
    }
    expect(found.toSorted((x, y) => x - y)).toEqual(all.map((row) => row.b));
  });

  test("may be merged with those that are there", async () => {
    await using api = await createApi(schema);
    await api.ask("POST", "/v1/tables/parts/rows", { a: "x", b: 1, c: "old" });
    const merged = await api.ask(
      "POST",
      "/v1/tables/parts/rows",
      [
        { a: "x", b: 1, c: "new" },
        { a: "x", b: 2 },
      ],
      {
        prefer: "resolution=merge-duplicates",
      },
    );
    expect(merged.json).toEqual([
      { a: "x", b: 1, c: "new" },
      { a: "x", b: 2, c: null },
    ]);
    const twice = await api.ask("POST", "/v1/tables/parts/rows", { a: "x", b: 1 });
    expect(twice.json).toMatchObject({ status: 409, code: "unique-violation", constraint: "parts_pkey" });
  });
});

describe("transactions", () => {
  test("do all or nothing, and what they read is what they wrote", async () => {
    await using api = await createApi(schema);
    const done = await api.ask("POST", "/v1/transactions", {
      operations: [
        {
          op: "insert",
          table: "parts",
          rows: [
            { a: "x", b: 1 },
            { a: "x", b: 2 },
          ],
          returning: false,
        },
        { op: "update", table: "public.parts", key: ["x", 1], set: { c: "set" }, returning: ["c"] },
        { op: "upsert", table: "parts", rows: { a: "x", b: 3, c: "up" }, returning: ["b"] },
        { op: "delete", table: "parts", key: ["x", "2"] },
        { op: "select", table: "parts", query: "select=b,c&order=b" },
        { op: "insert", table: "notes", rows: { body: "n" }, returning: ["body"] },
      ],
    });
    expect(done.status).toBe(200);
    const { results } = done.json as { results: { rows: unknown[]; etags: string[] }[] };
    expect(results.map((result) => result.rows)).toEqual([
      [],
      [{ c: "set" }],
      [{ b: 3 }],
      [{ a: "x", b: 2, c: null }],
      [
        { b: 1, c: "set" },
        { b: 3, c: "up" },
      ],
      [{ body: "n" }],
    ]);
    const [, updated] = results;
    const undone = await api.ask("POST", "/v1/transactions", {
      operations: [
        { op: "update", table: "parts", key: ["x", 1], set: { c: "lost" } },
        { op: "delete", table: "parts", key: ["x", 1], ifMatch: updated?.etags[0] },
      ],
    });
    expect(undone.json).toMatchObject({ status: 412, operation: 1 });
    expect((await api.ask("GET", "/v1/tables/parts/rows/x,1")).json).toMatchObject({ c: "set" });
  });

  const wrong: readonly [body: unknown, code: string][] = [
    [{}, "body-invalid"],
    [{ operations: [] }, "body-invalid"],
    [[], "body-invalid"],
    [{ operations: [{}] }, "body-invalid"],
    [{ operations: [{ op: "drop", table: "notes" }] }, "body-invalid"],
    [{ operations: [{ op: "__proto__", table: "notes" }] }, "body-invalid"],
    [{ operations: [{ op: "insert", table: "notes", rows: 1 }] }, "body-invalid"],
    [{ operations: [{ op: "delete", table: "notes", key: {} }] }, "body-invalid"],
    [{ operations: [{ op: "select", table: "notes", query: "limit=x" }] }, "parameter-invalid"],
    [{ operations: [{ op: "delete", table: "missing", key: 1 }] }, "table-unknown"],
    [{ operations: Array.from({ length: 101 }, () => ({ op: "select", table: "notes" })) }, "too-large"],
  ];

  test("that have not the form are refused", async () => {
    await using api = await createApi(schema);
    for (const [body, code] of wrong) {
      const answer = await api.ask("POST", "/v1/transactions", body);
      expect(answer.json, JSON.stringify(body).slice(0, 100)).toMatchObject({ code });
      expect(answer.status).toBeLessThan(500);
    }
  });
});

describe("what is handed to the writer", () => {
  test("wishes, session and idempotency key; the keys of new rows follow from it", async () => {
    await using api = await createApi(schema);
    const headers = { prefer: 'durable=2, wait=3; foo="bar"', "idempotency-key": '"order 7"' };
    const made = await api.ask("POST", rows, { body: "x" }, headers);
    expect(made.headers.get("preference-applied")).toBe("wait=3, durable=2");
    const session = made.headers.get("coregent-session") ?? "";
    const again = await api.ask("POST", rows, { body: "x" }, { ...headers, "coregent-session": session });
    expect(again.json).toMatchObject({ code: "unique-violation" });
    const [first, second] = api.writer.requests;
    expect(first).toMatchObject({ durable: { regions: 2 }, waitMs: 3000, session: null });
    expect(first?.idempotency).toEqual({
      scope: "",
      key: "order 7",
      requestHash: expect.stringMatching(/^[0-9a-f]{64}$/) as string,
    });
    expect(second?.idempotency).toEqual(first?.idempotency);
    expect(second?.session?.version.toString()).toBe(made.headers.get("coregent-version"));
    await api.ask("POST", rows, { body: "y" }, headers);
    expect(api.writer.requests[2]?.idempotency?.requestHash).not.toBe(first?.idempotency?.requestHash);
  });

  test("rights are asked for by the table's full name, before anything is done", async () => {
    const asked: unknown[] = [];
    await using api = await createApi(schema, {
      parts: {
        authorize: (_request, access) => {
          asked.push(access);
          return { name: "ana" };
        },
      },
    });
    await api.ask("GET", rows);
    await api.ask("POST", "/v1/transactions", {
      operations: [
        { op: "select", table: "notes" },
        { op: "delete", table: "public.parts", key: ["x", 1] },
      ],
    });
    expect(asked).toEqual(
      expect.arrayContaining([
        { table: "public.notes", right: "read" },
        { table: "public.parts", right: "write" },
      ]),
    );
    expect(JSON.stringify(asked)).not.toContain('"notes"');
  });
});

test("a column that is added, changed or dropped is known at once, also where statements were prepared for the old one", async () => {
  await using api = await createApi("CREATE TABLE t (id int PRIMARY KEY, v int)");
  const t = "/v1/tables/t/rows";
  for (const id of [1, 2, 3]) await api.ask("POST", t, { id, v: id });
  await api.db.query("ALTER TABLE t ALTER v TYPE text");
  expect((await api.ask("GET", `${t}/1`)).json).toEqual({ id: 1, v: "1" });
  await api.db.query("ALTER TABLE t DROP v");
  expect((await api.ask("POST", t, { id: 4 })).json).toEqual({ id: 4 });
  await api.db.query("ALTER TABLE t ADD w int");
  expect((await api.ask("GET", `${t}/4`)).status).toBe(200);
  expect(api.internal).toEqual([]);
});

interface Described {
  readonly headers?: Record<string, unknown>;
  readonly content?: Record<string, { schema: unknown }>;
}

test("the description names every route, and can be browsed", async () => {
  await using api = await createApi(schema);
  const { json } = await api.ask("GET", "/openapi.json");
  expect(json).toMatchObject({ openapi: "3.1.0", components: { securitySchemes: { bearer: {} } } });
  const { paths } = json as {
    paths: Record<
      string,
      Record<string, { parameters: { name: string }[]; responses: Record<string, Described> }>
    >;
  };
  const inserted = paths["/v1/tables/{table}/rows"]?.["post"]?.responses;
  for (const answer of [inserted?.["201"], paths["/v1/transactions"]?.["post"]?.responses["200"]]) {
    expect(Object.keys(answer?.headers ?? {})).toEqual(
      expect.arrayContaining(["Coregent-Region", "Coregent-Takeover", "Coregent-Session"]),
    );
    expect(answer?.content?.["application/json"]?.schema).not.toHaveProperty("headers");
  }
  expect(Object.keys(inserted?.["5XX"]?.headers ?? {})).toEqual(["Retry-After"]);
  const written = paths["/v1/transactions"]?.["post"]?.parameters.map(({ name }) => name);
  expect(written).toEqual(expect.arrayContaining(["coregent-session", "prefer", "idempotency-key"]));
  expect(Object.keys((json as { paths: object }).paths).sort((a, b) => a.localeCompare(b))).toEqual([
    "/livez",
    "/metrics",
    "/readyz",
    "/v1/status",
    "/v1/tables/{table}/rows",
    "/v1/tables/{table}/rows/{key}",
    "/v1/transactions",
  ]);
  const page = await fetch(`${api.url}/docs`);
  expect(page.headers.get("content-type")).toContain("text/html");
  expect(await page.text()).toContain("swagger-ui");
});
