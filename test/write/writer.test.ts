import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { Problem } from "../../src/problems.ts";
import type { Operation, OperationResult } from "../../src/write/operation.ts";
import type { RegionalWriter, WriteRequest } from "../../src/write/writer.ts";
import { eventually } from "../support/database.ts";
import { healths, WritingRegions } from "./masters-fixture.ts";

let all: WritingRegions;

beforeAll(async () => {
  all = await WritingRegions.create();
  await all.regions.agents();
});
afterEach(() => all.calm());
afterAll(() => all[Symbol.asyncDispose]());

const insert = (table: string, row: Record<string, string>): Operation => ({
  kind: "insert",
  table,
  rows: [new Map(Object.entries(row))],
  returning: null,
});
const update = (table: string, key: string, body: string): Operation => ({
  kind: "update",
  table,
  key: [key],
  values: new Map([["body", body]]),
  ifMatch: null,
  returning: null,
});

const request = (operations: readonly Operation[], change: Partial<WriteRequest> = {}): WriteRequest => ({
  operations,
  session: null,
  durable: null,
  waitMs: 0,
  idempotency: null,
  signal: new AbortController().signal,
  ...change,
});

/** The single row of each result. */
const rowsOf = (results: readonly OperationResult[]): unknown[] =>
  results.map(({ rows }) => JSON.parse(rows[0] ?? "null") as unknown);

/** A row that `owner` owns, in every region. */
const owned = async (writer: RegionalWriter, id: string, owner: string, table = "note"): Promise<void> => {
  await writer.write(request([insert(table, { id, body: "first", home_region: owner })]));
  await eventually(async () => {
    for (const name of all.regions.names) {
      const rows = await all.regions.db(name).query(`SELECT FROM public.${table} WHERE id = $1`, [id]);
      if (rows.length === 0) throw new Error(`${name} lacks ${id}`);
    }
  });
};

const codeOf = (error: unknown): string => (error instanceof Problem ? error.code : String(error));
const refused = (promise: Promise<unknown>): Promise<string> => promise.then(() => "done", codeOf);

describe("where writes go", () => {
  test("to the owner of the row; a new one to the region that takes it, unless it names another", async () => {
    const { writer, routed } = await all.writer("a");
    await owned(writer, "o1", "b");
    const written = await writer.write(request([update("note", "o1", "second")]));
    expect(written).toMatchObject({ region: "b", takeover: false, replayed: false });
    expect(rowsOf(written.results)).toEqual([{ id: "o1", body: "second", home_region: "b" }]);
    expect(written.version & 1023n).toBe(2n);
    expect(written.session.version).toBe(written.version);
    const taken = await writer.write(request([insert("note", { id: "o2", body: "mine" })]));
    expect(taken.region).toBe("a");
    expect(rowsOf(taken.results)).toEqual([{ id: "o2", body: "mine", home_region: "a" }]);
    expect(routed.map(({ region, choice }) => `${region} ${choice}`)).toEqual([
      "b owner",
      "b owner",
      "a here",
    ]);
  });

  test("a row that is not known here, one that nobody owns, and a table that is written to nearby: here", async () => {
    const { writer } = await all.writer("a");
    expect(await refused(writer.write(request([update("note", "nowhere", "x")])))).toBe("row-not-found");
    expect(await writer.write(request([insert("free", { id: "f1", body: "x" })]))).toMatchObject({
      region: "a",
    });
    await owned(writer, "n1", "b", "near");
    const near = await writer.write(request([update("near", "n1", "second")]));
    expect(near).toMatchObject({ region: "a", takeover: false });
  });

  test("rows of one transaction to one master, the one that owns most of them", async () => {
    const { writer } = await all.writer("a");
    await owned(writer, "m1", "b");
    await owned(writer, "m2", "c");
    await owned(writer, "m3", "c");
    const operations = ["m1", "m2", "m3"].map((key) => update("note", key, "together"));
    expect(await writer.write(request(operations))).toMatchObject({ region: "c", takeover: false });
    const failing = [update("note", "m1", "never"), update("note", "nowhere", "x")];
    expect(await refused(writer.write(request(failing)))).toBe("row-not-found");
    const [row] = await all.regions.db("b").query("SELECT body FROM public.note WHERE id = 'm1'");
    expect(row).not.toEqual({ body: "never" });
  });

  test("what the table's constraints and types refuse stays refused, with no second attempt elsewhere", async () => {
    const { writer, masters, routed } = await all.writer("a");
    await writer.write(request([insert("free", { id: "twice", body: "x" })]));
    expect(await refused(writer.write(request([insert("free", { id: "twice", body: "x" })])))).toBe(
      "unique-violation",
    );
    expect(await refused(writer.write(request([insert("nothing", { id: "x" })])))).toBe("table-unknown");
    expect(masters.find("a")?.connections.inFlight).toBe(0);
    expect(routed).toHaveLength(1);
  });
});

describe("an owner that falls away", () => {
  test.each(["reset", "blackhole"] as const)(
    "by %s: the nearest takes over, and it is told",
    async (mode) => {
      const { writer, masters } = await all.writer("a");
      await owned(writer, `t-${mode}`, "b");
      await writer.write(request([update("note", `t-${mode}`, "second")]));
      all.line("b").cut({ mode });
      // Sent while nobody knows of it yet: it waits until the owner is known to be down.
      const written = await writer.write(request([update("note", `t-${mode}`, "taken over")]));
      expect(written).toMatchObject({ region: "a", takeover: true });
      const [row] = await all.regions
        .db("a")
        .query("SELECT cg_base = cg_version AS authority FROM public.note WHERE id = $1", [`t-${mode}`]);
      expect(row).toEqual({ authority: true });
      expect(await writer.explain("note", [`t-${mode}`])).toMatchObject({
        table: "public.note",
        owner: "b",
        target: "a",
        takeover: true,
      });
      all.line("b").heal();
      await healths(masters, { b: "healthy" });
      expect(await writer.write(request([update("note", `t-${mode}`, "back")]))).toMatchObject({
        region: "b",
        takeover: false,
      });
    },
  );

  test("and this region's own master too: the next one takes over", async () => {
    const { writer, masters } = await all.writer("a");
    await owned(writer, "t3", "b");
    all.line("a").cut({ mode: "reset" });
    all.line("b").cut({ mode: "reset" });
    await healths(masters, { a: "down", b: "down" });
    expect(await writer.write(request([update("note", "t3", "x")]))).toMatchObject({
      region: "c",
      takeover: true,
    });
    all.line("c").cut({ mode: "reset" });
    await healths(masters, { c: "down" });
    const error = await writer.write(request([update("note", "t3", "y")])).catch((reason: unknown) => reason);
    expect(codeOf(error)).toBe("no-master");
    expect((error as Problem).retryable).toBe(true);
    expect((error as Problem).message).toContain("b is down: it cannot be reached (ECONNRESET)");
  });
});

describe("a master with too much to do", () => {
  test("is passed over for the backup without its authority, and comes back", async () => {
    const { writer, masters } = await all.writer("a", { settings: { maxInFlight: 1, maxQueue: 4 } });
    await owned(writer, "l1", "b");
    await writer.write(request([update("note", "l1", "warm")]));
    const b = masters.find("b");
    if (b === undefined) throw new Error("there is no master of b");
    const busy = [1, 2, 3].map(() =>
      b.session((client) => client.query("SELECT pg_sleep(0.6)"), AbortSignal.timeout(10_000)),
    );
    await eventually(() => b.connections.queued === 2);
    const backup = await writer.write(request([update("note", "l1", "backup")]));
    expect(backup).toMatchObject({ region: "a", takeover: false });
    const [row] = await all.regions
      .db("a")
      .query("SELECT cg_base < cg_version AS plain FROM public.note WHERE id = 'l1'");
    expect(row).toEqual({ plain: true });
    await Promise.all(busy);
    await eventually(async () => {
      const { region } = await writer.write(request([update("note", "l1", "again")]));
      return region === "b";
    });
    expect(masters.views().find(({ name }) => name === "b")?.share).toBeGreaterThan(0.5);
  });

  test("all of them: busy, at once when the queues are full, else after the wait", async () => {
    const { writer, masters } = await all.writer("a", {
      settings: { maxInFlight: 1, maxQueue: 1, maxWaitMs: 100 },
    });
    await writer.write(request([insert("free", { id: "l2", body: "x" })]));
    const ending = new AbortController();
    const held = masters.all.map((master) =>
      master.session((client) => client.query("SELECT pg_sleep(5)"), ending.signal).catch(() => "ended"),
    );
    await eventually(() => masters.all.every(({ connections }) => connections.inFlight === 1));
    const error = await writer.write(request([update("free", "l2", "y")])).catch((reason: unknown) => reason);
    expect([codeOf(error), (error as Problem).facts.retryAfterSeconds]).toEqual(["overloaded", 1]);
    ending.abort(new Error("the test goes on"));
    expect(await Promise.all(held)).toEqual(["ended", "ended", "ended"]);
    expect(rowsOf((await writer.write(request([insert("free", { id: "l3", body: "y" })]))).results)).toEqual([
      { id: "l3", body: "y" },
    ]);
  });
});

/** Commits in b take a while; gives the moment in which one is under way. */
const slowCommits = async (): Promise<
  AsyncDisposable & { committing: (count?: number) => Promise<void> }
> => {
  const db = all.regions.db("b");
  await db.query(`CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.7); RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT OR UPDATE ON public.note DEFERRABLE INITIALLY DEFERRED
      FOR EACH ROW EXECUTE FUNCTION public.slow()`);
  return {
    committing: async (count = 1) => {
      await eventually(async () => {
        const rows = await db.query(
          `SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'COMMIT%' AND state = 'active'`,
        );
        return rows.length === count;
      });
    },
    [Symbol.asyncDispose]: async () => {
      await db.query("DROP TRIGGER slow ON public.note; DROP FUNCTION public.slow()");
    },
  };
};

describe("an idempotency key", () => {
  const id = (key: string, requestHash = "h") => ({ scope: "s", key, requestHash });

  test("has one effect and one answer: again, elsewhere, at once; and is for one request only", async () => {
    const { writer } = await all.writer("a");
    const { writer: elsewhere } = await all.writer("c");
    const operations = [insert("free", { id: "i1", body: "x" })];
    const first = await writer.write(request(operations, { idempotency: id("once") }));
    expect(first).toMatchObject({ region: "a", replayed: false, onceOnly: true });
    const again = await writer.write(request(operations, { idempotency: id("once") }));
    expect(again).toMatchObject({
      region: "a",
      replayed: true,
      results: first.results,
      version: first.version,
    });
    const there = await elsewhere.write(request(operations, { idempotency: id("once") }));
    expect(there).toMatchObject({ region: "a", replayed: true, results: first.results });
    expect(await refused(writer.write(request(operations, { idempotency: id("once", "other") })))).toBe(
      "idempotency-key-reused",
    );
    for (let round = 0; round < 8; round += 1) {
      const counted = [insert("free", { id: `together${round}`, body: "x" })];
      const both = await Promise.all(
        [writer, elsewhere, writer, elsewhere].map((each) =>
          refused(each.write(request(counted, { idempotency: id(`together${round}`) }))),
        ),
      );
      expect(both.filter((outcome) => !["done", "idempotency-in-flight"].includes(outcome))).toEqual([]);
      expect(both).toContain("done");
    }
  });

  test("settles a connection that breaks during COMMIT, when the master can be asked again", async () => {
    const { writer, masters } = await all.writer("a");
    await owned(writer, "i3", "b");
    await using slow = await slowCommits();
    const asked = request([update("note", "i3", "in doubt")], { idempotency: id("doubt") });
    const writing = writer.write(asked);
    await slow.committing();
    // The line breaks once, and is there again: the writer finds out by itself.
    all.line("b").cut({ mode: "reset" });
    all.line("b").heal();
    expect(await writing).toMatchObject({ region: "b", replayed: true, takeover: false });
    await healths(masters, { b: "healthy" });
    expect(await writer.write(asked)).toMatchObject({ region: "b", replayed: true });
  });

  test("where the master stays away: unknown for an update, and once for a new row", async () => {
    const { writer, masters } = await all.writer("a");
    await owned(writer, "i4", "b");
    await using slow = await slowCommits();
    const changing = request([update("note", "i4", "in doubt")], { idempotency: id("doubt 2") });
    const inserting = request([insert("note", { id: "i5", body: "new", home_region: "b" })], {
      idempotency: id("doubt 3"),
    });
    const written = [
      writer.write(changing).catch((reason: unknown) => reason),
      writer.write(inserting),
    ] as const;
    await slow.committing(2);
    all.line("b").cut({ mode: "reset" });
    const error = await written[0];
    expect([codeOf(error), (error as Problem).retryable]).toEqual(["outcome-unknown", true]);
    expect(await written[1]).toMatchObject({ region: "a", takeover: true });
    all.line("b").heal();
    await healths(masters, { b: "healthy" });
    expect(["done", "idempotency-in-flight"]).toContain(await refused(writer.write(changing)));
    await all.regions.equal();
    const rows = await all.regions.db("c").query("SELECT id FROM public.note WHERE id = 'i5'");
    expect(rows).toHaveLength(1);
  });
});

test("a write is answered when it is durable in as many regions as asked for, else it is told", async () => {
  const { writer } = await all.writer("a");
  const asked = (id: string, regions: number, waitMs: number) =>
    writer.write(request([insert("free", { id, body: "x" })], { durable: { regions }, waitMs }));
  expect((await asked("w1", 2, 20_000)).durableRegions).toBe(2);
  const error = await asked("w2", 3, 300).catch((reason: unknown) => reason);
  expect(codeOf(error)).toBe("not-durable-yet");
  expect((error as Problem).facts.headers?.["coregent-version"]).toMatch(/^\d+$/);
  const [row] = await all.regions.db("a").query("SELECT body FROM public.free WHERE id = 'w2'");
  expect(row).toEqual({ body: "x" });
});

test("a connection that breaks during COMMIT: whether it was done is not known, and it is not sent again", async () => {
  const { writer, routed } = await all.writer("a");
  await owned(writer, "u1", "b");
  await using slow = await slowCommits();
  const writing = writer
    .write(request([update("note", "u1", "in doubt")]))
    .catch((reason: unknown) => reason);
  await slow.committing();
  all.line("b").cut({ mode: "reset" });
  const error = await writing;
  expect(codeOf(error)).toBe("outcome-unknown");
  expect(error).toMatchObject({ retryable: false, facts: { region: "b" } });
  expect(routed.map(({ region }) => region)).toEqual(["b"]);
  // It was done, as it happens: the server heard COMMIT.
  await eventually(async () => {
    const [row] = await all.regions.db("b").query("SELECT body FROM public.note WHERE id = 'u1'");
    expect(row).toEqual({ body: "in doubt" });
  });
});

test("a caller who goes away before COMMIT leaves nothing", async () => {
  const { writer, masters } = await all.writer("a");
  const db = all.regions.db("a");
  await db.query("INSERT INTO public.free (id) VALUES ('gone')");
  const blocker = await db.connect();
  await blocker.query("BEGIN; UPDATE public.free SET body = 'locked' WHERE id = 'gone'");
  const leaving = new AbortController();
  const writing = writer.write(request([update("free", "gone", "never")], { signal: leaving.signal }));
  const ended = expect(writing).rejects.toThrow("gone home");
  await eventually(() => masters.find("a")?.connections.inFlight === 1);
  leaving.abort(new Error("gone home"));
  await ended;
  await blocker.query("ROLLBACK");
  await eventually(async () => {
    const rows = await db.query(
      "SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'UPDATE%' AND state = 'active'",
    );
    return rows.length === 0;
  });
  const [row] = await db.query("SELECT body FROM public.free WHERE id = 'gone'");
  expect(row).toEqual({ body: null });
  expect(masters.find("a")?.connections.inFlight).toBe(0);
});

describe("sessions", () => {
  test("a write is stamped above what the session has seen", async () => {
    const { writer } = await all.writer("a");
    const ahead = ((BigInt(Date.now() + 3_600_000) * 1000n) << 10n) + 3n;
    const written = await writer.write(
      request([insert("free", { id: "s1", body: "x" })], { session: { positions: [], version: ahead } }),
    );
    expect(written.version).toBeGreaterThan(ahead);
  });

  test("a read with a token sees the write, wherever it is asked", async () => {
    const { writer } = await all.writer("a");
    const { writer: elsewhere } = await all.writer("c");
    const { session } = await writer.write(request([insert("free", { id: "s2", body: "seen" })]));
    const read = await elsewhere.read({
      operations: [
        {
          kind: "select",
          table: "free",
          key: ["s2"],
          columns: null,
          filters: [],
          order: [],
          limit: 1,
          offset: 0,
          after: null,
          count: false,
        },
      ],
      session,
      waitMs: 10_000,
      signal: new AbortController().signal,
    });
    expect(read.region).toBe("c");
    expect(rowsOf(read.results)).toEqual([{ id: "s2", body: "seen" }]);
  });
});

test("a region whose own clock is odd takes no writes, and others do not write to it", async () => {
  const db = all.regions.db("c");
  await db.query(`ALTER DATABASE "${db.name}" SET coregent.clock_offset_us = '-3600000000'`);
  try {
    const { writer: fenced, masters } = await all.writer("c");
    await eventually(() => masters.oddClocks.has("c"));
    const operations = [insert("note", { id: "k1", body: "x", home_region: "c" })];
    expect(await refused(fenced.write(request(operations)))).toBe("region-fenced");
    const { writer, masters: others } = await all.writer("a");
    await eventually(() => others.oddClocks.has("c"));
    expect(await writer.write(request(operations))).toMatchObject({ region: "a", takeover: false });
    const { regions } = await writer.explain("note", ["k1"]);
    expect(regions.find(({ region }) => region === "c")).toMatchObject({
      choice: "fenced",
      because: "is fenced: its clock is 60 min behind the others'",
    });
  } finally {
    await db.query(`ALTER DATABASE "${db.name}" RESET coregent.clock_offset_us`);
  }
});

test("drained regions are left out without a takeover", async () => {
  const { writer, masters } = await all.writer("a");
  const isDrained = (): boolean | undefined => masters.views().find(({ name }) => name === "b")?.drained;
  await owned(writer, "d1", "b");
  await all.regions.db("b").query("UPDATE coregent.local SET drained_at = now()");
  await eventually(isDrained);
  expect(await writer.write(request([update("note", "d1", "x")]))).toMatchObject({
    region: "a",
    takeover: false,
  });
  await all.regions.db("b").query("UPDATE coregent.local SET drained_at = NULL");
  await eventually(() => !isDrained());
  expect(await writer.write(request([update("note", "d1", "y")]))).toMatchObject({ region: "b" });
});
