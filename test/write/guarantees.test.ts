import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { QuietSpan } from "../../src/write/position.ts";
import { eventually } from "../support/eventually.ts";
import { type LocalAgent, Regions } from "../replication/agents.ts";
import { Behind, Masters, type MastersOptions, Session, type Statement } from "./clients.ts";

/**
 * Read-your-writes, monotonic reads and writes-follow-reads over three regions whose agents run in this process. Idle
 * positions are recorded so seldom that no test can have waited for that.
 */

let regions: Regions;
let masters: Masters;
let agents: Readonly<Record<string, LocalAgent>>;
const names = ["a", "b", "c"] as const;

/** What the agent of a region knows of its peers, as the regional writer of that region is told. */
const quietAt =
  (viewer: string) =>
  (origin: number): QuietSpan | null => {
    const link = [...(agents[viewer]?.status.links.values() ?? [])].find(({ peerId }) => peerId === origin);
    if (link === undefined || link.incarnation === null) return null;
    return { incarnation: link.incarnation, from: link.recordedLsn, to: link.mergedLsn };
  };

const addresses = (): { name: string; id: number; url: string }[] =>
  names.map((name) => ({ name, id: regions.id(name), url: regions.db(name).url }));

beforeAll(async () => {
  regions = await Regions.create({
    schema: "CREATE TABLE notes (id text PRIMARY KEY, n int NOT NULL); CREATE TABLE unlogged_noise (n int)",
    regions: { a: 18, b: 17, c: 16 },
  });
  agents = await regions.agents({ idleProgressMs: 3_600_000 });
  masters = new Masters({ cluster: regions.cluster, masters: addresses() });
});
afterAll(async () => {
  await masters?.[Symbol.asyncDispose]();
  await regions?.[Symbol.asyncDispose]();
});
const lines = function* () {
  for (const asks of names) for (const of of names) if (asks !== of) yield regions.line(asks, of);
};
afterEach(() => {
  for (const line of lines()) {
    line.heal();
    line.setConditions({ latencyMs: 0 });
  }
});

const put = (id: string, n: number): Statement => ({
  text: `INSERT INTO public.notes AS t VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET n = excluded.n
         RETURNING cg_version`,
  values: [id, n],
});
const get = (id: string): Statement => ({
  text: "SELECT n, cg_version FROM public.notes WHERE id = $1",
  values: [id],
});
const valueOf = (rows: readonly Record<string, unknown>[]): unknown => rows[0]?.["n"];

describe("under lag", () => {
  test("read-your-writes: wherever the session writes and reads, its last write is there", async () => {
    for (const line of lines()) line.setConditions({ latencyMs: 40 });
    const session = new Session(masters);
    let missedWithout = 0;
    for (let i = 0; i < 24; i += 1) {
      const [writes = "a", reads = "b"] = [names[i % 3], names[(i + 1 + (i % 2)) % 3]];
      await session.write(writes, put("mine", i));
      missedWithout += valueOf(await new Session(masters).read(reads, get("mine"))) === i ? 0 : 1;
      expect(valueOf(await session.read(reads, get("mine")))).toBe(i);
    }
    // The lag was real: without a token the write was not there.
    expect(missedWithout).toBeGreaterThan(12);
  });

  test("monotonic reads: what a session was shown in one region is not older in the next", async () => {
    regions.line("b", "a").setConditions({ latencyMs: 5 });
    regions.line("c", "a").setConditions({ latencyMs: 120 });
    const ending = new AbortController();
    const writing = (async () => {
      for (let n = 0; !ending.signal.aborted; n += 1) await new Session(masters).write("a", put("rising", n));
    })();
    const shown = async (nextSession: () => Session): Promise<number[]> => {
      const list: number[] = [];
      for (let i = 0; i < 24; i += 1) {
        const at = names[i % 3] ?? "a";
        const rows = await nextSession().read<{ n: number; cg_version: string }>(at, get("rising"));
        list.push(rows[0]?.n ?? -1);
      }
      return list;
    };
    const session = new Session(masters);
    const withToken = await shown(() => session);
    const without = await shown(() => new Session(masters));
    ending.abort();
    await writing;
    const rising = (list: readonly number[]): number[] => [...list].sort((x, y) => x - y);
    expect(withToken).toEqual(rising(withToken));
    expect(without).not.toEqual(rising(without));
  });

  test("reads follow through a third region: what a read showed of another's write is there next", async () => {
    regions.line("c", "a").cut({ mode: "blackhole" });
    await new Session(masters).write("a", put("third", 1));
    const session = new Session(masters);
    await eventually(async () => valueOf(await session.read("b", get("third"))) === 1);
    expect(valueOf(await new Session(masters).read("c", get("third")))).toBeUndefined();
    await expect(session.read("c", { ...get("third"), waitMs: 1_000 })).rejects.toThrow(Behind);
    regions.line("c", "a").heal();
    expect(valueOf(await session.read("c", { ...get("third"), waitMs: 30_000 }))).toBe(1);
  });
});

test("writes follow reads and writes, under skew: the later write outranks the earlier in every region", async () => {
  // b has seen nothing of it when it writes.
  regions.line("b", "a").cut({ mode: "blackhole" });
  const skewed = new Session(masters);
  // As a region whose clock is an hour ahead stamps.
  await skewed.write("a", {
    text: `WITH ahead AS MATERIALIZED (SELECT set_config('coregent.clock_offset_us', '3600000000', true),
                                       set_config('coregent.stamp_above', '', true))
           INSERT INTO public.notes SELECT v.id, 1 FROM ahead, (VALUES ('read'), ('written'), ('control')) AS v(id)
           RETURNING cg_version`,
  });
  const reader = new Session(masters);
  expect(valueOf(await reader.read("a", get("read")))).toBe(1);
  await reader.write("b", put("read", 2));
  await skewed.write("b", put("written", 2));
  await new Session(masters).write("b", put("control", 2));
  regions.line("b", "a").heal();
  await regions.equal();
  for (const name of names) {
    const rows = await regions
      .db(name)
      .query("SELECT id, n FROM notes WHERE id IN ('read', 'written', 'control') ORDER BY id");
    expect(rows).toEqual([
      // Who does not say what it has seen loses against the clock that is ahead.
      { id: "control", n: 1 },
      { id: "read", n: 2 },
      { id: "written", n: 2 },
    ]);
  }
});

describe("a region that cannot be reached", () => {
  test("is waited for as long as asked; the region that has it serves", async () => {
    regions.line("c", "a").cut({ mode: "blackhole" });
    const session = new Session(masters);
    await session.write("a", put("cut", 1));
    await expect(session.read("c", { ...get("cut"), waitMs: 300 })).rejects.toThrow(Behind);
    expect(valueOf(await session.read("b", get("cut")))).toBe(1);
    regions.line("c", "a").heal();
    expect(valueOf(await session.read("c", { ...get("cut"), waitMs: 30_000 }))).toBe(1);
  });

  test("who waits and goes away is let go at once, and too many are refused", async () => {
    await using few = new Masters({
      cluster: regions.cluster,
      masters: addresses(),
      limits: { maxWaiting: 1 },
    });
    regions.line("c", "a").cut({ mode: "blackhole" });
    const session = new Session(few);
    await session.write("a", put("let go", 1));
    const leaving = new AbortController();
    const wait = (signal: AbortSignal): Promise<unknown> =>
      few.position("c").waitFor({ token: session.token, waitMs: 60_000, signal });
    const first = wait(leaving.signal);
    await eventually(() => expect(wait(leaving.signal)).rejects.toThrow("wait for this region already"));
    leaving.abort(new Error("gone"));
    await expect(first).rejects.toThrow("gone");
    regions.line("c", "a").heal();
  });
});

describe("positions behind the last change that concerns the peers", () => {
  /** WAL of no concern to anybody, flushed; and then some which nobody has committed. */
  const noise = async (): Promise<AsyncDisposable> => {
    await regions.db("a").query("CREATE TABLE IF NOT EXISTS noise AS SELECT 1 AS n; DROP TABLE noise");
    const open = await regions.db("a").connect();
    await open.query("BEGIN; INSERT INTO unlogged_noise SELECT generate_series(1, 10)");
    return { [Symbol.asyncDispose]: async () => void (await open.query("ROLLBACK")) };
  };
  const never = { pulseAfterMs: 3_600_000 };
  const viewed = (options: Pick<MastersOptions, "quietOf" | "limits">): Masters =>
    new Masters({ cluster: regions.cluster, masters: addresses(), ...options });
  const recorded = async (): Promise<bigint> => {
    const position = await masters.position("b").now();
    return position.merged.get(regions.id("a"))?.lsn ?? 0n;
  };

  test("a write's position is the end of its commit, and reached when that is merged", async () => {
    const session = new Session(masters);
    const isReached = async (): Promise<boolean> => {
      const { committed } = await session.write("a", put("exact", 1));
      const reached = eventually(async () => (await recorded()) >= committed, { timeoutMs: 5000 });
      return await reached.catch(() => false);
    };
    // Other files' databases are on this server: where one of them commits in between, the position is behind its commit.
    expect((await isReached()) || (await isReached()) || (await isReached())).toBe(true);
  });

  test("a read's, which may not even be flushed, is reached by a pulse of the region", async () => {
    await using pulsing = viewed({});
    await using _ = await noise();
    const session = new Session(pulsing);
    await session.read("a", get("none"));
    expect(await session.read("b", get("none"))).toEqual([]);
  });

  test("or by what the link knows of the region's quiet, once it is flushed", async () => {
    const session = new Session(masters);
    {
      await using _ = await noise();
      await session.read("a", get("none"));
    }
    // A commit flushes what came before.
    await regions.db("a").query("CREATE TABLE noise (n int); DROP TABLE noise");
    const awaited = { token: session.token, signal: new AbortController().signal };
    await using seeing = viewed({ quietOf: quietAt("b"), limits: never });
    expect(await seeing.position("b").waitFor({ ...awaited, waitMs: 10_000 })).not.toBeNull();
    // Nothing was recorded meanwhile: who does not know it would wait.
    await using blind = viewed({ limits: never });
    expect(await blind.position("b").waitFor({ ...awaited, waitMs: 100 })).toBeNull();
  });
});

test("a region whose database is another one: its peers go over, and what was seen of the old one is as good as reached", async () => {
  const session = new Session(masters);
  await session.write("a", put("another", 1));
  await session.read("b", get("another"));
  const { token } = session;
  await regions.db("a").query("UPDATE coregent.local SET incarnation = gen_random_uuid()");
  const late = new Session(masters);
  await late.write("a", put("another", 2));
  await expect(late.read("b", { ...get("another"), waitMs: 100 })).rejects.toThrow(Behind);
  // What was seen of the old one is still there, where that is what is merged.
  expect(valueOf(await session.read("b", { ...get("another"), waitMs: 100 }))).toBeDefined();
  await agents["b"]?.stop();
  await regions.agent("b").streaming();
  expect(valueOf(await late.read("b", get("another")))).toBe(2);
  expect(valueOf(await session.read("b", get("another")))).toBe(2);
  // Who has never known the old one asks the region.
  await using fresh = new Masters({ cluster: regions.cluster, masters: addresses() });
  const { signal } = new AbortController();
  expect(await fresh.position("b").waitFor({ token, waitMs: 10_000, signal })).not.toBeNull();
  const origins = session.token.positions.map(({ origin }) => origin);
  expect(origins).toEqual([...new Set(origins)]);
});
