import type { ClientBase } from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { systemClock } from "../../src/clock.ts";
import { commitWithPosition, OutcomeUnknown } from "../../src/write/commit.ts";
import { derivedKey } from "../../src/write/derived-key.ts";
import { runExpiry } from "../../src/write/expiry.ts";
import {
  askPeers,
  type Claim,
  claimKey,
  deleteExpired,
  type IdempotencyKey,
  isOnceOnly,
  keepAnswer,
  KeyTaken,
  lookUpKey,
  maxAnswerBytes,
  settle,
} from "../../src/write/idempotency.ts";
import { Regions } from "../replication/agents.ts";
import { eventually } from "../support/eventually.ts";
import { uniqueName } from "../support/database.ts";
import { Masters } from "./clients.ts";

/** FAULTS 44, 45: a and b with their agents; a write is carried out as the regional writer does it. */

let regions: Regions;
let masters: Masters;
const names = ["a", "b"] as const;

beforeAll(async () => {
  regions = await Regions.create({
    schema:
      "CREATE TABLE orders (id text PRIMARY KEY, n int NOT NULL); CREATE TABLE total (id int PRIMARY KEY, n int)",
  });
  await regions.agents();
  masters = new Masters({
    cluster: regions.cluster,
    masters: names.map((name) => ({ name, id: regions.id(name), url: regions.db(name).url })),
  });
  await regions.db("a").query("INSERT INTO total VALUES (1, 0)");
  await regions.equal();
});
afterAll(async () => {
  await masters?.[Symbol.asyncDispose]();
  await regions?.[Symbol.asyncDispose]();
});

const newKey = (requestHash = "h1"): IdempotencyKey => ({ scope: "shop", key: uniqueName("k"), requestHash });
const clock = systemClock();
const expiresAfterMs = 3_600_000;
type Work = (client: ClientBase) => Promise<unknown>;
const order =
  (id: string): Work =>
  (client) =>
    client.query("INSERT INTO public.orders VALUES ($1, 1)", [id]);

interface Outcome {
  readonly claim: Claim["kind"];
  readonly answer: string | null;
  readonly onceOnly: boolean;
}

/** A write as the regional writer does it: the peers are asked while the transaction holds the key. */
const carryOut = async (
  name: "a" | "b",
  id: IdempotencyKey,
  {
    work,
    answer,
    fixedKeys = false,
    cut = false,
  }: { work: Work; answer: string; fixedKeys?: boolean; cut?: boolean },
): Promise<Outcome> => {
  const client = await masters.pool(name).connect();
  try {
    await client.query("BEGIN");
    const own = await claimKey(client, id);
    const peers = names
      .filter((other) => other !== name)
      .map((other) => ({ region: masters.id(other), database: cut ? unreachable : masters.pool(other) }));
    const said = await askPeers(own.kind === "new" ? peers : [], id, { clock, timeoutMs: 500 });
    const claim = own.kind === "new" ? said.claim : own;
    const onceOnly = isOnceOnly({ unreachable: said.unreachable, insertsUnderFixedKeysOnly: fixedKeys });
    if (claim.kind !== "new") {
      await client.query("ROLLBACK");
      return { claim: claim.kind, answer: claim.kind === "replayed" ? claim.record.answer : null, onceOnly };
    }
    await work(client);
    await keepAnswer(client, id, { answer, expiresAfterMs });
    await commitWithPosition(client);
    return { claim: "new", answer, onceOnly };
  } catch (error) {
    await client.query("ROLLBACK").catch(() => undefined);
    throw error;
  } finally {
    client.release();
  }
};
/** As a region whose line is cut: it never answers. */
const unreachable = { query: () => new Promise<never>(() => undefined) };

const orders = async (name: string, pattern: string): Promise<unknown[]> =>
  regions.db(name).query("SELECT id FROM orders WHERE id LIKE $1 ORDER BY id", [pattern]);

describe("one key, one effect, one answer", () => {
  test("again at once and later, at the same region and elsewhere; another payload is refused", async () => {
    const id = newKey();
    const send = (name: "a" | "b", key = id): Promise<Outcome> =>
      carryOut(name, key, { work: order(uniqueName(id.key)), answer: name });
    expect(await send("a")).toEqual({ claim: "new", answer: "a", onceOnly: true });
    expect(await send("a")).toEqual({ claim: "replayed", answer: "a", onceOnly: true });
    expect(await send("b")).toEqual({ claim: "replayed", answer: "a", onceOnly: true });
    expect((await send("a", { ...id, requestHash: "h2" })).claim).toBe("reused");
    expect((await send("b", { ...id, requestHash: "h2" })).claim).toBe("reused");
    expect((await send("a", { ...id, scope: "another" })).claim).toBe("new");
    expect(await orders("a", `${id.key}%`)).toHaveLength(2);
  });

  test("elsewhere before it is replicated, by asking; and when it is, without", async () => {
    const id = newKey();
    regions.line("b", "a").cut({ mode: "blackhole" });
    await carryOut("a", id, { work: order(id.key), answer: "of a" });
    expect((await lookUpKey(masters.pool("b"), id)).kind).toBe("new");
    expect(await carryOut("b", id, { work: order(id.key), answer: "of b" })).toMatchObject({
      claim: "replayed",
      answer: "of a",
    });
    regions.line("b", "a").heal();
    await eventually(async () => expect((await lookUpKey(masters.pool("b"), id)).kind).toBe("replayed"));
    expect(await carryOut("b", id, { work: order(id.key), answer: "of b", cut: true })).toMatchObject({
      claim: "replayed",
      answer: "of a",
    });
  });

  test("while it is carried out: 409 there, and elsewhere as far as it is asked", async () => {
    const id = newKey();
    const started = Promise.withResolvers<void>();
    const goOn = Promise.withResolvers<void>();
    const first = carryOut("a", id, {
      answer: "first",
      work: async (client) => {
        started.resolve();
        await goOn.promise;
        await order(id.key)(client);
      },
    });
    await started.promise;
    expect((await carryOut("a", id, { work: order(id.key), answer: "2" })).claim).toBe("in-flight");
    expect((await carryOut("b", id, { work: order(id.key), answer: "3" })).claim).toBe("in-flight");
    goOn.resolve();
    expect((await first).claim).toBe("new");
  });

  test("many at once, in both regions: one of them is new, if any; what is sent again gets its answer", async () => {
    for (let round = 0; round < 8; round += 1) {
      const id = newKey();
      const send = (_: unknown, i: number): Promise<Outcome> =>
        carryOut(i % 2 === 0 ? "a" : "b", id, {
          work: (client) => client.query("UPDATE public.total SET n = n + 1 WHERE id = 1 RETURNING n"),
          answer: String(i),
        });
      const outcomes = await Promise.all(Array.from({ length: 6 }, send));
      const made = outcomes.filter(({ claim }) => claim === "new");
      expect(made.length).toBeLessThanOrEqual(1);
      // Two regions may have seen each other's locks, and both have stood back.
      let again = await send(null, 0);
      while (again.claim === "in-flight") again = await send(null, 0);
      if (made[0] !== undefined) expect(again).toMatchObject({ claim: "replayed", answer: made[0].answer });
      expect((await send(null, 1)).answer).toBe(again.answer);
      // The next may be done in the other region, and counts on from what that one holds.
      await regions.equal();
    }
    const [counted] = await regions
      .db("a")
      .query("SELECT count(*)::int AS n FROM coregent.idempotency WHERE answer ~ '^[0-5]$'");
    expect(await regions.db("b").query("SELECT n FROM total")).toEqual([counted]);
  });

  test("what fails leaves no record, and an answer that is too long is kept without its text", async () => {
    const id = newKey();
    await expect(
      carryOut("a", id, { work: (client) => client.query("SELECT 1 / 0"), answer: "" }),
    ).rejects.toThrow("division by zero");
    expect((await lookUpKey(masters.pool("a"), id)).kind).toBe("new");
    await carryOut("a", id, { work: order(id.key), answer: "é".repeat(maxAnswerBytes / 2 + 1) });
    expect(await lookUpKey(masters.pool("a"), id)).toEqual({
      kind: "replayed",
      record: { requestHash: "h1", region: masters.id("a"), answer: null },
    });
  });

  test("a peer's record that is merged between claim and commit is not overwritten", async () => {
    const id = newKey();
    regions.line("b", "a").cut({ mode: "blackhole" });
    await carryOut("a", id, { work: order(id.key), answer: "of a" });
    const late = carryOut("b", id, {
      answer: "of b",
      cut: true,
      work: async () => {
        regions.line("b", "a").heal();
        await eventually(async () => expect((await lookUpKey(masters.pool("b"), id)).kind).toBe("replayed"));
      },
    });
    await expect(late).rejects.toThrow(KeyTaken);
  });
});

describe("in a partition, where both regions carry it out", () => {
  const bothSides = async (
    id: IdempotencyKey,
    write: { readonly work: (name: string) => Work; readonly fixedKeys: boolean },
  ): Promise<Outcome[]> => {
    for (const line of regions.between("a", "b")) line.cut({ mode: "blackhole" });
    const outcomes: Outcome[] = [];
    for (const name of names) {
      outcomes.push(
        await carryOut(name, id, {
          work: write.work(name),
          answer: name,
          fixedKeys: write.fixedKeys,
          cut: true,
        }),
      );
    }
    for (const line of regions.between("a", "b")) line.heal();
    await regions.equal();
    return outcomes;
  };

  test("inserts whose keys derive from the idempotency key are one row, and one record", async () => {
    const id = newKey();
    const { ulid } = derivedKey(id, 0);
    const outcomes = await bothSides(id, { work: () => order(ulid), fixedKeys: true });
    expect(outcomes).toMatchObject([
      { claim: "new", onceOnly: true },
      { claim: "new", onceOnly: true },
    ]);
    for (const name of names) {
      expect(await orders(name, ulid)).toEqual([{ id: ulid }]);
      expect(
        await regions.db(name).query("SELECT FROM coregent.conflict WHERE table_name = 'public.orders'"),
      ).toEqual([]);
    }
    // The later record has won in both; the key is answered alike from now on.
    const answers = await Promise.all(names.map((name) => lookUpKey(masters.pool(name), id)));
    expect(answers[0]).toEqual(answers[1]);
    expect(answers[0]?.kind).toBe("replayed");
  });

  test("for other writes the answer says that once-only is not promised", async () => {
    const work = (name: string): Work => order(uniqueName(name));
    expect(await bothSides(newKey(), { work, fixedKeys: false })).toMatchObject([
      { claim: "new", onceOnly: false },
      { claim: "new", onceOnly: false },
    ]);
  });
});

describe("an unknown outcome", () => {
  /** A commit that the server does not hear of, so that its session stays in the transaction; or whose answer is lost. */
  const lose = async (id: IdempotencyKey, when: "before" | "after"): Promise<{ backend: number }> => {
    const client = await regions.db("a").connect();
    const [row] = (await client.query<{ pid: number }>("SELECT pg_backend_pid() AS pid")).rows;
    await client.query("BEGIN");
    await claimKey(client, id);
    await order(id.key)(client);
    await keepAnswer(client, id, { answer: "kept", expiresAfterMs });
    if (when === "after") {
      const { stream } = client.connection;
      stream.pause();
      const committing = expect(commitWithPosition(client)).rejects.toThrow(OutcomeUnknown);
      await eventually(async () => expect((await lookUpKey(masters.pool("a"), id)).kind).toBe("replayed"));
      stream.destroy();
      await committing;
    }
    return { backend: row?.pid ?? 0 };
  };
  const settled = async (
    id: IdempotencyKey,
    backend: number | null,
    waitMs = 5_000,
  ): Promise<Claim["kind"]> => {
    const client = await masters.pool("a").connect();
    try {
      return (await settle(client, id, { backend, waitMs })).kind;
    } finally {
      client.release();
    }
  };

  test("the server had the commit: the record tells, and what is sent again is not done again (FAULTS 45)", async () => {
    const id = newKey();
    const { backend } = await lose(id, "after");
    expect(await settled(id, backend)).toBe("replayed");
    expect((await carryOut("a", id, { work: order(`${id.key} again`), answer: "2" })).answer).toBe("kept");
    expect(await orders("a", `${id.key}%`)).toHaveLength(1);
  });

  test("it had not: the session that is left is ended, and the write can be sent again", async () => {
    const id = newKey();
    const { backend } = await lose(id, "before");
    expect(await settled(id, null, 50)).toBe("in-flight");
    // A number that has become somebody else's is let alone.
    const [other] = await regions.db("b").query<{ pid: number }>("SELECT pg_backend_pid() AS pid");
    expect(await settled(id, other?.pid ?? 0, 50)).toBe("in-flight");
    expect(await settled(id, backend)).toBe("new");
    expect((await carryOut("a", id, { work: order(id.key), answer: "2" })).claim).toBe("new");
    expect(await orders("a", `${id.key}%`)).toHaveLength(1);
  });
});

test("records expire: then the key is new, and each region deletes its own, a batch at a time", async () => {
  const ids = [newKey(), newKey(), newKey()];
  for (const id of ids) await carryOut("a", id, { work: order(id.key), answer: "" });
  await regions.equal();
  const expire = (name: string): Promise<number> =>
    deleteExpired(masters.pool(name), { members: new Set(names.map((each) => masters.id(each))), limit: 2 });
  expect(await expire("a")).toBe(0);
  await regions
    .db("a")
    .query("UPDATE coregent.idempotency SET expires_at = now() - interval '1 s' WHERE key = ANY ($1)", [
      ids.map(({ key }) => key),
    ]);
  await regions.equal();
  const [first] = ids;
  if (first === undefined) throw new Error("no key");
  expect((await lookUpKey(masters.pool("b"), first)).kind).toBe("new");
  expect((await carryOut("a", first, { work: order(`${first.key} 2`), answer: "2" })).claim).toBe("new");
  expect(await expire("b")).toBe(0);
  expect(await expire("a")).toBe(2);
  expect(await expire("a")).toBe(0);
  await regions.equal();
  expect(
    await regions
      .db("b")
      .query("SELECT answer FROM coregent.idempotency WHERE key = ANY ($1)", [ids.map(({ key }) => key)]),
  ).toEqual([{ answer: "2" }]);
  // Of a region that has left, anybody does.
  await regions
    .db("a")
    .query("UPDATE coregent.idempotency SET region = 99, expires_at = now() WHERE key = $1", [first.key]);
  await regions.equal();
  expect(await expire("b")).toBe(1);
  await regions.equal();
});

test("a region deletes what has expired by itself, however much it is", async () => {
  await regions.db("a").query(`INSERT INTO coregent.idempotency
    SELECT 'shop', 'old ' || n, '', coregent.region_id(), '', now(), now() FROM generate_series(1, 25) AS n`);
  await regions.equal();
  const ending = new AbortController();
  const running = runExpiry(
    {
      database: () => masters.pool("a"),
      members: () => new Set(names.map((each) => masters.id(each))),
      clock,
      everyMs: 10,
      batch: 10,
    },
    ending.signal,
  );
  const left = async (): Promise<number> =>
    (await regions.db("b").query("SELECT FROM coregent.idempotency WHERE key LIKE 'old %'")).length;
  await eventually(async () => expect(await left()).toBe(0));
  ending.abort();
  await running;
});
