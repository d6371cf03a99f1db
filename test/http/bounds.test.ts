import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { text } from "node:stream/consumers";
import { describe, expect, test } from "vitest";
import { Problem } from "../../src/problems.ts";
import { eventually } from "../support/database.ts";
import { type Api, createApi } from "./api-fixture.ts";

const schema = "CREATE TABLE t (id int PRIMARY KEY, x text, j jsonb)";
const rows = "/v1/tables/t/rows";

const open = async (api: Api): Promise<Socket> => {
  const socket = connect(api.port, "127.0.0.1");
  socket.on("error", () => undefined);
  await once(socket, "connect");
  return socket;
};
const head = (length: string) =>
  `POST ${rows} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n${length}\r\n\r\n`;

/** Status and problem of an answer that came over a bare socket. */
const answerOf = async (socket: Socket): Promise<{ status: number; problem: unknown }> => {
  const [headers = "", body = ""] = (await text(socket)).split("\r\n\r\n");
  expect(headers).toContain("application/problem+json");
  return { status: Number(/^HTTP\/1.1 (\d+)/.exec(headers)?.[1]), problem: JSON.parse(body) };
};

const neverWritten = () => Promise.reject(new Error("nobody writes"));

/** A writer that answers when told to. */
const held = () => {
  const { promise, resolve } = Promise.withResolvers<never>();
  let waiting = 0;
  const wait = () => {
    waiting += 1;
    return promise.then((never) => never);
  };
  return { writer: { write: wait, read: wait }, release: resolve, waiting: () => waiting };
};

describe("sizes", () => {
  test("bodies, rows and depth beyond the bounds are refused, and the server goes on", async () => {
    await using api = await createApi(schema, { bounds: { maxBodyBytes: 10_000, maxRows: 10 } });
    const cases: readonly [unknown, number, string][] = [
      [{ id: 1, x: "x".repeat(20_000) }, 413, "too-large"],
      [Array.from({ length: 11 }, (_, id) => ({ id })), 413, "too-large"],
      [`{"id":1,"j":${"[".repeat(100)}${"]".repeat(100)}}`, 400, "body-malformed"],
      ["[".repeat(9_000), 400, "body-malformed"],
      ["", 400, "body-malformed"],
    ];
    for (const [body, status, code] of cases) {
      expect((await api.ask("POST", rows, body)).json).toMatchObject({ status, code, retryable: false });
    }
    const deepest = `{"id":1,"j":${"[".repeat(60)}${"]".repeat(60)}}`;
    expect((await api.ask("POST", rows, deepest)).status).toBe(201);
  });

  test("an endless body is cut off at the bound", async () => {
    await using api = await createApi(schema, { bounds: { maxBodyBytes: 10_000 } });
    const socket = await open(api);
    socket.write(head("Transfer-Encoding: chunked"));
    const answered = answerOf(socket);
    const chunk = `${(1000).toString(16)}\r\n${" ".repeat(1000)}\r\n`;
    const sending = setInterval(() => socket.write(chunk), 5);
    expect(await answered).toMatchObject({ status: 413, problem: { code: "too-large" } });
    clearInterval(sending);
  });

  test("a page has a bound, and tells how to go on", async () => {
    await using api = await createApi(schema, { bounds: { maxPageRows: 3, pageRows: 2 } });
    await api.ask(
      "POST",
      rows,
      Array.from({ length: 5 }, (_, id) => ({ id })),
    );
    expect((await api.ask("GET", `${rows}?limit=1000000`)).json).toHaveLength(3);
    const page = await api.ask("GET", rows);
    expect(page.json).toHaveLength(2);
    expect(page.headers.get("coregent-next")).not.toBeNull();
  });
});

describe("slowness", () => {
  const serverBounds = { requestTimeoutMs: 400, headersTimeoutMs: 200 };

  test.each([
    ["headers", `GET ${rows} HTTP/1.1\r\nHost: x\r\nX-Slow: `],
    ["a body", `${head("Content-Length: 100")}{"id":`],
    ["a body in chunks", `${head("Transfer-Encoding: chunked")}6\r\n{"id":\r\n`],
  ])("%s that do not end are answered with 408", async (_what, bytes) => {
    await using api = await createApi(schema, { serverBounds });
    const socket = await open(api);
    const answered = answerOf(socket);
    const writing = setInterval(() => socket.write(bytes.startsWith("GET") ? "a" : ""), 20);
    socket.write(bytes);
    expect(await answered).toMatchObject({
      status: 408,
      problem: { code: "request-timeout", retryable: true },
    });
    clearInterval(writing);
    expect(await api.db.query("SELECT * FROM t")).toEqual([]);
  });

  test("many slow clients do not keep others from being served", async () => {
    await using api = await createApi(schema);
    const slow = await Promise.all(Array.from({ length: 300 }, () => open(api)));
    for (const socket of slow) socket.write(`${head("Content-Length: 1000")}{`);
    for (let id = 0; id < 20; id += 1) {
      expect((await api.ask("POST", rows, { id })).status).toBe(201);
    }
    for (const socket of slow) socket.destroy();
  });
});

describe("answers of requests that are cut off", () => {
  const more = "x".repeat(60_000);

  test.each([
    ["413", `${head("Content-Length: 30000000")}{`],
    ["413", `${head("Transfer-Encoding: chunked")}${(30_000_000).toString(16)}\r\n{`],
    ["431", `GET ${rows} HTTP/1.1\r\nHost: x\r\nX-Long: ${more}`],
    ["400", "this is no HTTP\r\n\r\n"],
  ])(
    "arrive (%s) although the client sends on before it reads, and the connection ends",
    async (status, bytes) => {
      await using api = await createApi(schema);
      const socket = await open(api);
      const closed = once(socket, "close");
      socket.write(bytes);
      for (let i = 0; i < 20; i += 1) socket.write(more);
      expect((await api.ask("GET", "/livez")).status).toBe(200);
      const sending = setInterval(() => socket.write("x"), 5);
      expect((await answerOf(socket)).status).toBe(Number(status));
      clearInterval(sending);
      await closed;
    },
  );

  test("come behind those of earlier requests of the connection, and not in place of them", async () => {
    const { writer, release, waiting } = held();
    await using api = await createApi(schema, { parts: { writer } });
    const socket = await open(api);
    const all = text(socket);
    socket.write(`GET ${rows} HTTP/1.1\r\nHost: x\r\n\r\n`);
    await eventually(() => waiting() === 1);
    socket.write("this is no HTTP\r\n\r\n");
    expect((await api.ask("GET", "/livez")).status).toBe(200);
    release(Promise.reject(new Problem("session-behind", "x")) as never);
    expect((await all).match(/HTTP\/1.1 \d+/g)).toEqual(["HTTP/1.1 503", "HTTP/1.1 400"]);
  });
});

describe("too much at once", () => {
  test("requests beyond the bound are refused with 503 before anything is done; the others are not touched", async () => {
    const { writer, release, waiting } = held();
    await using api = await createApi(schema, { bounds: { maxRequestsUnderWay: 2 }, parts: { writer } });
    const under = [api.ask("GET", rows), api.ask("POST", rows, { id: 1 })];
    await eventually(() => waiting() === 2);
    const refused = await api.ask("POST", rows, { id: 2 });
    expect(refused.json).toMatchObject({ status: 503, code: "overloaded", retryable: true });
    expect(refused.headers.get("retry-after")).toBe("1");
    expect((await api.ask("GET", "/livez")).status).toBe(200);
    release(Promise.reject(new Problem("session-behind", "x", { retryAfterSeconds: 7 })) as never);
    for (const answer of await Promise.all(under)) {
      expect([answer.status, answer.headers.get("retry-after")]).toEqual([503, "7"]);
    }
    // The places are free again.
    expect((await api.ask("GET", rows)).json).toMatchObject({ code: "session-behind" });
  });

  test("announced bodies count too, also when their senders go away", async () => {
    await using api = await createApi(schema, {
      bounds: { maxBodyBytes: 40_000, maxBodyBytesUnderWay: 100_000 },
    });
    const slow = await Promise.all([open(api), open(api)]);
    for (const socket of slow) socket.write(`${head("Content-Length: 40000")}{`);
    const x = "x".repeat(30_000);
    await eventually(async () => (await api.ask("POST", rows, { id: 1, x })).status === 503);
    expect((await api.ask("POST", rows, { id: 3, x: "small" })).status).toBe(201);
    for (const socket of slow) socket.destroy();
    await eventually(async () => (await api.ask("POST", rows, { id: 2, x })).status === 201);
  });

  test("lists that clients do not read count too; what was written is answered in any case", async () => {
    await using api = await createApi(schema, { bounds: { maxAnswerBytesUnderWay: 9_000_000 } });
    await api.db.query("INSERT INTO t SELECT n, repeat('x', 1900000) FROM generate_series(1, 2) n");
    const slow = await Promise.all([open(api), open(api)]);
    for (const socket of slow) socket.pause();
    await eventually(async () => {
      // Until the system's buffers are full, which take more the longer they are used.
      for (const socket of slow) socket.write(`GET ${rows} HTTP/1.1\r\nHost: x\r\n\r\n`);
      for (let i = 0; i < 3; i += 1) expect((await api.ask("GET", rows)).status).toBe(503);
    });
    expect((await api.ask("GET", `${rows}?limit=1&select=id`)).status).toBe(200);
    expect((await api.ask("PATCH", `${rows}/1`, { j: 1 })).status).toBe(200);
    for (const socket of slow) socket.destroy();
    await eventually(async () => (await api.ask("GET", rows)).status === 200);
  });

  test.each([
    { name: "who does not take a long answer is cut off", firstWaits: false },
    { name: "who does not take long answers that wait behind another is cut off", firstWaits: true },
  ])("$name", async ({ firstWaits }) => {
    let reads = 0;
    const read: Api["writer"]["read"] = (request) => {
      reads += 1;
      return firstWaits && reads === 1 ? new Promise<never>(() => undefined) : api.writer.read(request);
    };
    await using api = await createApi(schema, {
      bounds: { answerTimeoutMs: 200 },
      parts: { writer: { read, write: neverWritten } },
    });
    await api.db.query("INSERT INTO t VALUES (1, repeat('x', 1900000))");
    const socket = await open(api);
    const closed = new Promise((resolve) => socket.once("close", resolve));
    socket.write(`GET ${rows} HTTP/1.1\r\nHost: x\r\n\r\n`.repeat(20));
    // Nobody reads: only a reset tells the end.
    const probing = setInterval(() => socket.write("\r\n"), 20);
    await closed;
    clearInterval(probing);
  });

  test("an answer to a caller who has gone away does not count", async () => {
    const turn = Promise.withResolvers<void>();
    const signals: AbortSignal[] = [];
    const read: Api["writer"]["read"] = async (request) => {
      signals.push(request.signal);
      const answer = await api.writer.read(request);
      if (signals.length === 1) await turn.promise;
      return answer;
    };
    await using api = await createApi(schema, {
      bounds: { maxAnswerBytesUnderWay: 3_000_000 },
      parts: { writer: { read, write: neverWritten } },
    });
    await api.db.query("INSERT INTO t VALUES (1, repeat('x', 1900000))");
    const socket = await open(api);
    socket.write(`GET ${rows} HTTP/1.1\r\nHost: x\r\n\r\n`);
    await eventually(() => signals.length === 1);
    socket.destroy();
    await eventually(() => signals[0]?.aborted === true);
    turn.resolve();
    expect((await api.ask("GET", rows)).status).toBe(200);
  });

  test("a caller who goes away is noticed by the writer", async () => {
    const signals: AbortSignal[] = [];
    const write = ({ signal }: { signal: AbortSignal }) => {
      signals.push(signal);
      return new Promise<never>(() => undefined);
    };
    await using api = await createApi(schema, { parts: { writer: { write, read: write } } });
    const socket = await open(api);
    socket.write(`${head("Content-Length: 8")}{"id":1}`);
    await eventually(() => signals.length === 1);
    socket.destroy();
    await eventually(() => signals[0]?.aborted === true);
  });
});

test("what fails for a reason that is ours says nothing of it, but the request's id, under which it is reported", async () => {
  const write = () => Promise.reject(new Error("secret password"));
  await using api = await createApi(schema, { parts: { writer: { write, read: write } } });
  const answer = await api.ask("POST", rows, { id: 1 });
  expect(answer.json).toMatchObject({
    status: 500,
    code: "internal",
    requestId: expect.any(String) as string,
  });
  expect(answer.text).not.toContain("secret");
  expect(api.internal).toMatchObject([{ cause: { message: "secret password" } }]);
});
