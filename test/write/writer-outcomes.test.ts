import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { Problem } from "../../src/problems.ts";
import { selectRow } from "../../src/write/operation.ts";
import { eventually } from "../support/database.ts";
import { healths, slowCommits, type WritingRegions } from "./masters-fixture.ts";
import { codeOf, insert, openRegions, refused, request, rowsOf, update } from "./writer-requests.ts";

let all: WritingRegions;
let owned: Awaited<ReturnType<typeof openRegions>>["owned"];

beforeAll(async () => {
  ({ all, owned } = await openRegions());
});
afterEach(() => all.calm());
afterAll(() => all[Symbol.asyncDispose]());

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

  test("says where one effect cannot be promised, also of a write that is not in so many regions in time", async () => {
    const { writer, masters } = await all.writer("a");
    await writer.write(request([insert("free", { id: "i2", body: "x" })]));
    all.line("b").cut({ mode: "reset" });
    await healths(masters, { b: "down" });
    const asked = request([update("free", "i2", "y")], {
      idempotency: id("alone"),
      durable: { regions: 3 },
      waitMs: 100,
    });
    const headersOf = async (): Promise<unknown> => {
      const error = await writer.write(asked).catch((reason: unknown) => reason);
      expect(codeOf(error)).toBe("not-durable-yet");
      return (error as Problem).facts.headers;
    };
    const first = await headersOf();
    expect(first).toMatchObject({ "coregent-once-only": "false", "coregent-region": "a" });
    expect(first).not.toHaveProperty("idempotency-replayed");
    expect(await headersOf()).toMatchObject({
      "coregent-once-only": "false",
      "idempotency-replayed": "true",
    });
  });

  test("settles a connection that breaks during COMMIT, when the master can be asked again", async () => {
    const { writer, masters } = await all.writer("a");
    await owned(writer, "i3", "b");
    await using slow = await slowCommits(all);
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
    await using slow = await slowCommits(all);
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
  await using slow = await slowCommits(all);
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

describe("a connection that breaks during COMMIT, and the master can be asked again", () => {
  const bodyOf = async (id: string): Promise<unknown> => {
    const [row] = await all.regions.db("b").query("SELECT body FROM public.note WHERE id = $1", [id]);
    return row?.["body"];
  };

  test("it was done: that is the answer, with the version that the row has", async () => {
    const { writer, routed } = await all.writer("a");
    await owned(writer, "u2", "b");
    await using slow = await slowCommits(all);
    const writing = writer.write(request([update("note", "u2", "in doubt")]));
    await slow.committing();
    all.line("b").resetConnections();
    const outcome = await writing;
    expect(outcome).toMatchObject({ region: "b", takeover: false, replayed: false, onceOnly: null });
    const [row] = await all.regions.db("b").query("SELECT cg_version::text AS v FROM note WHERE id = 'u2'");
    expect(String(outcome.version)).toBe(row?.["v"]);
    expect(outcome.session.positions.some(({ origin }) => origin === 2)).toBe(true);
    expect(routed.map(({ region }) => region)).toEqual(["b", "b"]);
  });

  test("it was not done: it is done now, once", async () => {
    const { writer } = await all.writer("a");
    await owned(writer, "u3", "b");
    await using slow = await slowCommits(all);
    const writing = writer.write(request([update("note", "u3", "in doubt")]));
    await slow.committing();
    await all.regions.db("b").query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND query LIKE 'COMMIT%' AND state = 'active'`,
    );
    expect(await writing).toMatchObject({ region: "b", takeover: false });
    expect(await bodyOf("u3")).toBe("in doubt");
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
      operations: [selectRow("free", ["s2"], null)],
      session,
      waitMs: 10_000,
      signal: new AbortController().signal,
    });
    expect(read.region).toBe("c");
    expect(rowsOf(read.results)).toEqual([{ id: "s2", body: "seen" }]);
  });
});
