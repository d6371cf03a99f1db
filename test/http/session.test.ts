import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { startCluster, type TestCluster } from "../../src/testing/index.ts";
import { eventually } from "../support/eventually.ts";
import { type Answer, type Ask, asking, HttpSession } from "./endpoints.ts";

/**
 * Read-your-writes, monotonic reads and writes-follow-reads for a client that carries `Coregent-Session` from endpoint to
 * endpoint of three real agents: under lag, under skewed clocks, and when a region dies and comes back.
 */

const names = ["a", "b", "c"] as const;
let cluster: TestCluster;
let ask: Ask;

beforeAll(async () => {
  cluster = await startCluster({
    regions: [...names],
    schema: `CREATE TABLE notes (id text PRIMARY KEY, n int NOT NULL);
             CREATE TABLE owned (id text PRIMARY KEY, n int NOT NULL, home text)`,
    tables: [{ name: "public.owned", owner: "home" }],
    writer: { probeMs: 100, failuresToDown: 2, successesToUp: 2, calmMs: 200 },
  });
  ask = asking(cluster);
  for (const name of names) {
    await eventually(async () => (await ask(name, ["GET", "/v1/tables/notes/rows"])).status === 200);
  }
});
afterAll(() => cluster?.stop());
afterEach(() => {
  cluster.heal();
  cluster.latency(0);
});

const row = (id: string): string => `/v1/tables/notes/rows/${id}`;
const session = (): HttpSession => new HttpSession(ask);
const mustWait = { prefer: "wait=30" };

const put = async (by: { ask: Ask }, region: string, id: string, n: number): Promise<Answer> => {
  const answer = await by.ask(region, ["PUT", row(id)], { n });
  expect([200, 201]).toContain(answer.status);
  return answer;
};
/** What the row is at that endpoint; null: not there. */
const get = async (by: { ask: Ask }, region: string, id: string): Promise<number | null> => {
  const answer = await by.ask(region, ["GET", row(id)], undefined, mustWait);
  expect([200, 404]).toContain(answer.status);
  return answer.status === 404 ? null : Number(answer.json["n"]);
};
const rising = (list: readonly (number | null)[]): (number | null)[] =>
  list.toSorted((x, y) => (x ?? -1) - (y ?? -1));

describe("under lag", () => {
  test("read-your-writes: wherever the session writes and reads, its last write is there", async () => {
    cluster.latency(60);
    const mine = session();
    let missedWithout = 0;
    for (let n = 0; n < 12; n += 1) {
      const [writes = "a", reads = "b"] = [names[n % 3], names[(n + 1 + (n % 2)) % 3]];
      await put(mine, writes, "mine", n);
      missedWithout += (await get(session(), reads, "mine")) === n ? 0 : 1;
      expect(await get(mine, reads, "mine")).toBe(n);
    }
    // The lag was real.
    expect(missedWithout).toBeGreaterThan(4);
  });

  test("monotonic reads: what an endpoint has shown is not older at the next", async () => {
    cluster.slow("c", "a", { latencyMs: 150 });
    const ending = new AbortController();
    const writing = (async () => {
      for (let n = 0; !ending.signal.aborted; n += 1) await put(session(), "a", "rising", n);
    })();
    await eventually(async () => (await get(session(), "c", "rising")) !== null);
    const shown = async (next: () => HttpSession): Promise<(number | null)[]> => {
      const list: (number | null)[] = [];
      for (let i = 0; i < 18; i += 1) list.push(await get(next(), names[i % 3] ?? "a", "rising"));
      return list;
    };
    const one = session();
    const withToken = await shown(() => one);
    const without = await shown(session);
    ending.abort();
    await writing;
    expect(withToken).toEqual(rising(withToken));
    expect(without).not.toEqual(rising(without));
  });

  test("a region that is cut off from what was read does not show less: another one is asked, or it is waited for", async () => {
    cluster.cut("a", "c");
    await put(session(), "a", "cut", 1);
    const reader = session();
    await eventually(async () => (await get(reader, "b", "cut")) === 1);
    expect(await get(session(), "c", "cut")).toBeNull();
    const elsewhere = await reader.ask("c", ["GET", row("cut")], undefined, { prefer: "wait=0" });
    expect([elsewhere.status, elsewhere.headers.get("coregent-region")]).not.toEqual([200, "c"]);
    cluster.heal();
    expect(await get(reader, "c", "cut")).toBe(1);
  });
});

test("writes follow reads and writes under skewed clocks: the later outranks the earlier in every region", async () => {
  await cluster.skewClock("a", 10_000);
  try {
    cluster.cut("a", "b");
    const writer = session();
    const first = await eventually(async () => {
      const answer = await put(writer, "a", "written", 1);
      // What is stamped is 10 s ahead of the true time.
      const version = BigInt(answer.headers.get("coregent-version") ?? 0);
      const other = await put(session(), "b", "clock", 1);
      expect(version).toBeGreaterThan(BigInt(other.headers.get("coregent-version") ?? 0));
      return answer;
    });
    expect(first.headers.get("coregent-region")).toBe("a");
    await put(session(), "a", "read", 1);
    await put(session(), "a", "control", 1);
    const reader = session();
    expect(await get(reader, "a", "read")).toBe(1);
    await put(reader, "b", "read", 2);
    await put(writer, "b", "written", 2);
    await put(session(), "b", "control", 2);
    cluster.heal();
    expect(await get(writer, "b", "written")).toBe(2);
    expect(await get(reader, "c", "read")).toBe(2);
    await cluster.converged();
    for (const name of names) {
      const shown = await Promise.all(["read", "written", "control"].map((id) => get(session(), name, id)));
      // Who does not say what it has seen loses against the clock that is ahead.
      expect([name, ...shown]).toEqual([name, 2, 2, 1]);
    }
  } finally {
    await cluster.skewClock("a", 0);
  }
});

test("when a region dies and comes back: nothing older is shown, and what is written next outranks it", async () => {
  const owned = "/v1/tables/owned/rows/failover";
  /** null: whoever could be asked has not what the session has seen. */
  const read = async (by: HttpSession, region: string): Promise<number | null> => {
    const answer = await by.ask(region, ["GET", owned], undefined, { prefer: "wait=1" });
    if (answer.status !== 200) expect(answer.json).toMatchObject({ status: 503, retryable: true });
    return answer.status === 200 ? Number(answer.json["n"]) : null;
  };
  const shown = (by: HttpSession, region: string): Promise<number> =>
    eventually(async () => (await read(by, region)) ?? Promise.reject(new Error("not yet")));
  const mine = session();
  const kept = await mine.ask("a", ["PUT", owned], { n: 1, home: "a" }, { prefer: "durable=1, wait=30" });
  expect(kept.status).toBe(201);
  await cluster.kill("a");
  for (const name of ["b", "c"]) expect(await shown(mine, name)).toBe(1);
  const taken = await eventually(async () => {
    const answer = await mine.ask("b", ["PATCH", owned], { n: 2 });
    expect(answer.status).toBe(200);
    return answer;
  });
  expect(taken.headers.get("coregent-takeover")).toBe("true");
  // Another client reads what was taken over, and its own write follows that, through another region.
  const other = session();
  await eventually(async () => expect(await read(other, "c")).toBe(2));
  expect((await other.ask("c", ["PATCH", owned], { n: 3 })).status).toBe(200);
  expect(await shown(other, "b")).toBe(3);
  await cluster.restart("a");
  expect(await shown(other, "a")).toBe(3);
  expect(await shown(mine, "a")).toBe(3);
  await cluster.converged();
  for (const name of names) expect([name, await read(session(), name)]).toEqual([name, 3]);
});
