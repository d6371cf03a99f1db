import { connect, type Socket } from "node:net";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startCluster, type TestCluster } from "../../src/testing/index.ts";
import { eventually } from "../support/eventually.ts";

/**
 * FAULTS 48: slow clients, against a real agent. `COREGENT_SLOW_CLIENTS=1000 npx vitest run --project main
 * test/http/slow-clients.test.ts` takes as many as the row says.
 */
const slowClients = Number(process.env["COREGENT_SLOW_CLIENTS"] ?? 200);
/** Of the agent, with 128 MiB of answers that nobody takes, as the system and Node hold them. */
const maxResidentMib = 1_536;

const rows = "/v1/tables/t/rows";
const head = "Host: localhost\r\nContent-Type: application/json\r\n";

interface Kind {
  readonly first: string;
  /** Sent again and again. */
  readonly next: string;
  readonly reads: boolean;
}

const post = (length: number): string =>
  `POST ${rows} HTTP/1.1\r\n${head}Content-Length: ${length}\r\n\r\n{"id":`;
const slowHeaders: Kind = { first: `GET ${rows} HTTP/1.1\r\n${head}X-Slow: `, next: "a", reads: true };
const slowBody: Kind = { first: post(1_000), next: "1", reads: true };
const slowLongBody: Kind = { first: post(1_000_000), next: "1", reads: true };
/** Each answer has 4 MiB: more than the system's buffers take. */
const slowReader: Kind = {
  first: `GET ${rows}?limit=1000 HTTP/1.1\r\n${head}\r\n`.repeat(3),
  next: "",
  reads: false,
};
const sending = [slowHeaders, slowBody, slowLongBody] as const;
const kindOf = (at: number): Kind => (at % 10 === 0 ? slowReader : (sending[at % 3] ?? slowHeaders));

/** A client that comes back when it is cut off, until it is stopped. */
class SlowClient {
  readonly #port: number;
  readonly #kind: Kind;
  #socket: Socket | null = null;
  #sending: NodeJS.Timeout | null = null;
  cutOff = 0;

  constructor(port: number, kind: Kind) {
    this.#port = port;
    this.#kind = kind;
    this.#open();
  }

  stop(): void {
    if (this.#sending !== null) clearInterval(this.#sending);
    this.#socket?.removeAllListeners("close");
    this.#socket?.destroy();
  }

  #open(): void {
    const socket = connect(this.#port, "127.0.0.1");
    this.#socket = socket;
    socket.on("error", () => undefined);
    socket.once("connect", () => {
      socket.write(this.#kind.first);
      this.#sending = setInterval(() => socket.writableLength === 0 && socket.write(this.#kind.next), 500);
    });
    socket.once("close", () => {
      if (this.#sending !== null) clearInterval(this.#sending);
      this.cutOff += 1;
      this.#open();
    });
    if (this.#kind.reads) socket.resume();
  }
}

/** What one client sees who is not slow; null: all is well. */
const serving = async (api: string, id: number): Promise<string | null> => {
  const headers = { "content-type": "application/json" };
  const body = JSON.stringify({ id, x: "y" });
  for (const [path, init, status] of [
    [rows, { method: "POST", headers, body }, 201],
    [`${rows}/${id}`, {}, 200],
    [`${rows}?id=eq.${id}`, {}, 200],
    ["/readyz", {}, 200],
  ] as const) {
    const answer = await fetch(api + path, init);
    const text = await answer.text();
    if (answer.status !== status || (status === 201 && text !== body))
      return `${path}: ${answer.status} ${text}`;
  }
  return null;
};

const residentMib = async (api: string): Promise<number> => {
  const figures = await (await fetch(`${api}/metrics`)).text();
  return Number(/^process_resident_memory_bytes(?:\{.*\})? (\d+)/m.exec(figures)?.[1]) / 1024 / 1024;
};

let cluster: TestCluster;

beforeAll(async () => {
  cluster = await startCluster({
    regions: 1,
    schema: `CREATE TABLE t (id int PRIMARY KEY, x text);
             CREATE TABLE long (id int PRIMARY KEY, n int, x text);
             INSERT INTO t SELECT n, repeat('x', 20000) FROM generate_series(1, 300) n`,
  });
  const { api } = cluster.region("a");
  await eventually(async () => (await fetch(`${api}${rows}/1`)).status === 200);
});
afterAll(() => cluster?.stop());

test("rows that are too long to be held are refused, and pages end before them", async () => {
  const { sql, api } = {
    sql: cluster.region("a").sql.bind(cluster.region("a")),
    api: cluster.region("a").api,
  };
  await sql("INSERT INTO long SELECT n, n, repeat('x', 3000000) FROM generate_series(1, 20) n");
  await sql("INSERT INTO long VALUES (100, 1, repeat('x', 20000000))");
  const long = "/v1/tables/long/rows";
  const ask = async (method: string, path: string, body?: unknown, headers: Record<string, string> = {}) => {
    const answer = await fetch(api + path, {
      method,
      headers: { ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await answer.text();
    return {
      status: answer.status,
      headers: answer.headers,
      json: text === "" ? null : (JSON.parse(text) as unknown),
    };
  };
  const tooLong = { status: 422, code: "answer-too-long", retryable: false };
  const page = await ask("GET", `${long}?id=lt.100&limit=1000`);
  expect([page.status, page.headers.has("coregent-next")]).toEqual([200, true]);
  expect(page.json).toHaveLength(1);
  expect((await ask("GET", `${long}/100`)).json).toMatchObject(tooLong);
  expect((await ask("GET", `${long}?id=gte.100`)).json).toMatchObject(tooLong);
  expect((await ask("PATCH", `${long}/100`, { n: 2 })).json).toMatchObject(tooLong);
  const selects = Array.from({ length: 20 }, (_, at) => ({ op: "select", table: "long", key: at + 1 }));
  const all = await ask("POST", "/v1/transactions", {
    operations: [{ op: "update", table: "long", key: 1, set: { n: 77 }, returning: [] }, ...selects],
  });
  expect(all.json).toMatchObject(tooLong);
  expect((await ask("GET", `${long}?select=id,n&id=in.(1,100)`)).json).toEqual([
    { id: 1, n: 1 },
    { id: 100, n: 1 },
  ]);
  expect((await ask("PATCH", `${long}/100`, { n: 2 }, { prefer: "return=minimal" })).status).toBe(204);
});

test(`${slowClients} slow clients keep nobody from being served, and the agent's memory stays bounded`, async () => {
  const { api } = cluster.region("a");
  const clients = Array.from(
    { length: slowClients },
    (_, at) => new SlowClient(Number(new URL(api).port), kindOf(at)),
  );
  const failures: string[] = [];
  let mostMib = 0;
  let id = 1_000;
  let rounds = 0;
  try {
    // The lists that are not taken are read at first, by all at once.
    await eventually(async () => (await serving(api, (id += 1))) === null);
    // Until many were cut off, and came back.
    await eventually(async () => {
      mostMib = Math.max(mostMib, await residentMib(api));
      const failure = await serving(api, (id += 1));
      rounds += 1;
      if (failure !== null) failures.push(failure);
      const cutOff = clients.filter((client) => client.cutOff > 0);
      return failures.length > 0 || (cutOff.length > slowClients / 4 && rounds >= 20);
    });
  } finally {
    for (const client of clients) client.stop();
  }
  expect(failures).toEqual([]);
  expect(mostMib).toBeLessThan(maxResidentMib);
  expect(mostMib).toBeGreaterThan(0);
  await eventually(async () => (await fetch(`${api}${rows}`)).status === 200);
}, 120_000);
