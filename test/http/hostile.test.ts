import { connect } from "node:net";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Api, createApi } from "./api-fixture.ts";

/**
 * FAULTS 46 and 47, byte by byte: requests that no library sends. None is answered with a 5xx, and none that is refused has
 * an effect.
 */

const schema = `
CREATE TABLE t (id int PRIMARY KEY, x text, j jsonb, n numeric, ta text[]);
CREATE TABLE two (a text, b int, PRIMARY KEY (a, b));
CREATE TABLE k (id text PRIMARY KEY, x int);
INSERT INTO t (id, x) VALUES (1, 'a'), (2, 'b');
INSERT INTO k VALUES ('a/b', 1), ('a,b', 2), ('%2C', 3), ('', 4), ('..', 5);
INSERT INTO two VALUES ('a,b', 1)`;

let api: Api;
beforeAll(async () => {
  api = await createApi(schema);
});
afterAll(() => api?.[Symbol.asyncDispose]());

const rows = "/v1/tables/t/rows";
const json = "Content-Type: application/json";

interface Raw {
  readonly line: string;
  readonly headers?: readonly string[];
  /** Each character one byte. */
  readonly body?: string;
}

/** All that comes back until the server closes. */
const send = async (bytes: string): Promise<string> => {
  const socket = connect(api.port, "127.0.0.1");
  socket.write(Buffer.from(bytes, "latin1"));
  return text(socket);
};

const request = ({ line, headers = [], body = "" }: Raw): string => {
  const all = [`${line} HTTP/1.1`, "Host: localhost", "Connection: close", ...headers];
  return `${all.join("\r\n")}\r\n\r\n${body}`;
};

const withBody = (line: string, body: string, headers: readonly string[] = []): string =>
  request({ line, headers: [json, `Content-Length: ${body.length}`, ...headers], body });
const post = (body: string, headers?: readonly string[]): string => withBody(`POST ${rows}`, body, headers);

const contents = (): Promise<unknown> =>
  api.db
    .query(`SELECT (SELECT json_agg(t ORDER BY id) FROM t) AS t, (SELECT json_agg(k ORDER BY id) FROM k) AS k,
    (SELECT json_agg(two) FROM two) AS two`);

const statusOf = (answer: string): number => Number(/^HTTP\/1\.1 (\d{3})/.exec(answer)?.[1]);

/** Refused with this status, as a problem with this code, and without an effect. */
const refused = async (bytes: string, status: number, code: string): Promise<void> => {
  const before = await contents();
  const answer = await send(bytes);
  expect([statusOf(answer), /"code":"([^"]+)"/.exec(answer)?.[1]]).toEqual([status, code]);
  expect(answer.match(/^HTTP\/1\.1 /gm)).toHaveLength(1);
  expect(await contents()).toEqual(before);
  expect(api.internal).toEqual([]);
};

describe("where a request ends is never in doubt", () => {
  const smuggled = `0\r\n\r\nPOST ${rows} HTTP/1.1\r\nHost: x\r\n${json}\r\nContent-Length: 9\r\n\r\n{"id":66}`;
  test.each<[string, readonly string[], string]>([
    ["a length and chunks", ["Content-Length: 5", "Transfer-Encoding: chunked"], smuggled],
    ["chunks and a length", ["Transfer-Encoding: chunked", "Content-Length: 5"], smuggled],
    ["two encodings", ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], smuggled],
    ["an unknown encoding", ["Transfer-Encoding: xchunked"], smuggled],
    ["two lengths", ["Content-Length: 9", "Content-Length: 10"], '{"id":66}'],
    ["the same length twice", ["Content-Length: 9", "Content-Length: 9"], '{"id":66}'],
    ["a list of lengths", ["Content-Length: 9, 9"], '{"id":66}'],
    ["a length with a sign", ["Content-Length: +9"], '{"id":66}'],
    ["a length below none", ["Content-Length: -1"], '{"id":66}'],
    ["a length in hexadecimal", ["Content-Length: 0x9"], '{"id":66}'],
    ["a length beyond all numbers", [`Content-Length: ${"9".repeat(30)}`], '{"id":66}'],
    ["chunks of no size", ["Transfer-Encoding: chunked"], 'zz\r\n{"id":66}\r\n0\r\n\r\n'],
    ["a chunk with much beside it", ["Transfer-Encoding: chunked"], `9;${"a".repeat(20_000)}\r\n{"id":66}`],
    ["a folded header", ["X: a\r\n b", "Content-Length: 9"], '{"id":66}'],
    ["NUL in a header", ["X: a\0b", "Content-Length: 9"], '{"id":66}'],
  ])("%s", async (_what, headers, body) => {
    await refused(
      request({ line: `POST ${rows}`, headers: [json, ...headers], body }),
      400,
      "body-malformed",
    );
  });

  test("what stands behind a body is no request of its own where the body is refused", async () => {
    await refused(post(`{}x`), 400, "body-malformed");
    await refused(
      request({ line: `POST ${rows}`, headers: [json, "Content-Length: 9007199254740993"] }),
      413,
      "too-large",
    );
    await refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "body-malformed");
    await refused(`GET ${rows} HTTP/1.1\nHost: x\n\n`, 400, "body-malformed");
  });
});

describe("a promise that is not understood is refused", () => {
  test.each([
    "durable=",
    "durable",
    'durable="1 2"',
    'durable="',
    "durable:1",
    "durable=1=2",
    "DURABLE=x",
    "wait=-1",
    "wait=1.5",
    "wait = 1 2",
    "wait=9999999999999999",
  ])("Prefer: %s", async (prefer) => {
    await refused(post('{"id":66}', [`Prefer: ${prefer}`]), 400, "parameter-invalid");
  });

  test.each([
    ["POST", rows, 'If-Match: "1"'],
    ["POST", rows, "If-None-Match: *"],
    ["POST", "/v1/transactions", 'If-Match: "1"'],
    ["PATCH", `${rows}/1`, "If-None-Match: *"],
    ["PATCH", `${rows}/1`, "If-Match: "],
    ["PATCH", `${rows}/1`, 'If-Match: *, "1"'],
    ["PATCH", `${rows}/1`, 'If-Match: "1"\r\nIf-Match: *'],
    ["PATCH", `${rows}/1`, `If-Match: ${'"1",'.repeat(30)}"1"`],
    ["PATCH", `${rows}/1`, 'If-Match: "\xe9"'],
    ["PUT", `${rows}/1`, 'If-None-Match: "1"'],
    ["DELETE", `${rows}/1`, "If-None-Match: *"],
  ])("%s %s with %s", async (method, path, header) => {
    await refused(withBody(`${method} ${path}`, '{"x":"y"}', [header]), 400, "parameter-invalid");
  });

  test.each(["Idempotency-Key: a\r\nIdempotency-Key: b", "Idempotency-Key:", "Idempotency-Key: \xe9"])(
    "%j",
    async (header) => {
      await refused(post('{"id":66}', [header]), 400, "parameter-invalid");
    },
  );

  test("an ETag that no row has matches none, also one that is no number", async () => {
    for (const tag of ['W/"1"', '"x"', `"${"9".repeat(19)}"`, '"-1"', '"1.1.1"']) {
      await refused(withBody(`PATCH ${rows}/1`, '{"x":"y"}', [`If-Match: ${tag}`]), 412, "version-mismatch");
    }
  });
});

describe("bodies", () => {
  test.each([
    ["Content-Type: application/json; charset=utf-16"],
    ['Content-Type: application/json; charset="iso-8859-1"'],
    ["Content-Type: application/vnd.api+json"],
    ["Content-Type: application/jsonx"],
    [`${json}\r\nContent-Encoding: gzip`],
    ["X-None: 1"],
  ])("are taken as JSON in UTF-8 only: not with %j", async (headers) => {
    const bytes = request({
      line: `POST ${rows}`,
      headers: [headers, "Content-Length: 9"],
      body: '{"id":66}',
    });
    await refused(bytes, 415, "content-type-unsupported");
  });

  test.each([
    ["a byte order mark", '\xef\xbb\xbf{"id":66}', "body-malformed"],
    ["UTF-16", '{\0"\0i\0d\0"\0:\x006\x006\0}\0', "body-malformed"],
    ["half of a character", '{"id":66,"x":"\xff"}', "body-malformed"],
    ["a character in too many bytes", '{"id":66,"x":"\xc0\x80"}', "body-malformed"],
    ["NUL", '{"id":66,"x":"\0"}', "body-malformed"],
    ["NUL, escaped", '{"id":66,"j":{"\\u0000":1}}', "body-malformed"],
    ["__proto__", '{"id":66,"__proto__":{"x":1}}', "column-unknown"],
    ["constructor", '{"id":66,"constructor":{"prototype":1}}', "column-unknown"],
    ["a hidden column", '{"id":66,"cg_version":1}', "column-unknown"],
    ["a system's column", '{"id":66,"ctid":"(0,1)"}', "column-unknown"],
    ["a number beyond all", '{"id":1e400}', "value-invalid"],
    ["a number with too many digits", `{"id":66,"n":1e200000}`, "value-invalid"],
    ["a ragged array", '{"id":66,"ta":[["a"],["b","c"]]}', "value-invalid"],
    ["nothing", "null", "body-invalid"],
    ["rows of nothing", "[null]", "body-invalid"],
    ["no rows", "[]", "body-invalid"],
  ])("with %s", async (_what, body, code) => {
    await refused(post(body), 400, code);
  });
});

describe("addresses", () => {
  test.each([
    ["/v1/tables/%00/rows", 404, "table-unknown"],
    ["/v1/tables/%c0%ae/rows", 400, "parameter-invalid"],
    ["/v1/tables/%ed%a0%80/rows", 400, "parameter-invalid"],
    ["/v1/tables/%2574/rows", 404, "table-unknown"],
    ["/v1/tables/t%2Frows/rows", 404, "table-unknown"],
    ["/v1/tables/%22t%22/rows", 404, "table-unknown"],
    ["/v1/tables/public.public.t/rows", 404, "table-unknown"],
    ["/v1/tables/../tables/t/rows", 404, "not-found"],
    ["/v1\\tables\\t\\rows", 404, "not-found"],
    [`${rows}/1;x=1`, 400, "value-invalid"],
    [`${rows}/99999999999999999999`, 400, "value-invalid"],
    ["/v1/tables/k/rows/%00", 400, "value-invalid"],
    ["/v1/tables/k/rows/a/b", 404, "not-found"],
    ["/v1/tables/two/rows/a", 400, "parameter-invalid"],
    [`${rows}?select=ctid`, 400, "column-unknown"],
    [`${rows}?__proto__=eq.1`, 400, "column-unknown"],
    [`${rows}?order=cg_version`, 400, "column-unknown"],
    [`${rows}?limit=1e3`, 400, "parameter-invalid"],
    [`${rows}?after=${Buffer.from('["x",{"__proto__":1}]').toString("base64url")}`, 400, "parameter-invalid"],
    ["/docs/static/../../package.json", 404, "not-found"],
    ["/docs/static/..%2f..%2f..%2fpackage.json", 404, "not-found"],
    ["/docs/static/%00", 404, "not-found"],
  ])("%s", async (path, status, code) => {
    await refused(request({ line: `GET ${path}` }), status, code);
  });

  test.each([
    ["k", "a%2Fb", 1],
    ["k", "a,b", 2],
    ["k", "%252C", 3],
    ["k", "", 4],
    ["k", "..", 5],
    ["k", "%2e%2e", 5],
  ])("a key is what its address says once decoded: %s/%s", async (table, key, x) => {
    const answer = await send(request({ line: `GET /v1/tables/${table}/rows/${key}` }));
    expect([statusOf(answer), answer.slice(answer.indexOf("\r\n\r\n"))]).toEqual([
      200,
      expect.stringContaining(`"x":${x}`),
    ]);
  });

  test("methods that are not served are not found, whatever they ask for", async () => {
    for (const line of [`TRACE ${rows}`, "OPTIONS *", `PROPFIND ${rows}`]) {
      await refused(request({ line }), 404, "not-found");
    }
  });
});
