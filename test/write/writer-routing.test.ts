import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { Problem } from "../../src/problems.ts";
import { selectRow } from "../../src/write/operation.ts";
import type { ReadOutcome } from "../../src/write/writer.ts";
import { eventually } from "../support/database.ts";
import { healths, type WritingRegions } from "./masters-fixture.ts";
import { codeOf, insert, openRegions, refused, request, rowsOf, update } from "./writer-requests.ts";

let all: WritingRegions;
let owned: Awaited<ReturnType<typeof openRegions>>["owned"];

beforeAll(async () => {
  ({ all, owned } = await openRegions());
});
afterEach(() => all.calm());
afterAll(() => all[Symbol.asyncDispose]());

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

test("an owner that has become far, half a second away, writes its rows all the same", async () => {
  const { writer, masters } = await all.writer("a", {
    settings: { probeTimeoutMs: 700, failuresToDown: 3, minLatencyMs: 2_000 },
  });
  await owned(writer, "far", "b");
  // As a simulated latency does: what is open breaks, and what comes is slow.
  all.line("b").setConditions({ latencyMs: 250 });
  all.line("b").resetConnections();
  expect(await writer.write(request([update("note", "far", "first")]))).toMatchObject({
    region: "b",
    takeover: false,
  });
  await healths(masters, { b: "healthy" });
  expect(await writer.write(request([update("note", "far", "second")]))).toMatchObject({
    region: "b",
    takeover: false,
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

test("a read that has waited for its region goes on to who is next by then", async () => {
  const { writer, masters } = await all.writer("a");
  const { writer: other } = await all.writer("c");
  // This region falls behind, so that it is waited for.
  all.regions.line("a", "c").cut({ mode: "blackhole" });
  const { session } = await other.write(request([insert("free", { id: "s2", body: "x" })]));
  const read = (waitMs: number): Promise<ReadOutcome> =>
    writer.read({
      operations: [selectRow("free", ["s2"], null)],
      session,
      waitMs,
      signal: new AbortController().signal,
    });
  const isDrained = (): boolean | undefined => masters.views().find(({ name }) => name === "b")?.drained;
  try {
    await eventually(async () => expect((await read(0)).region).toBe("b"));
    const waiting = read(1_500);
    await all.regions.db("b").query("UPDATE coregent.local SET drained_at = now()");
    await eventually(isDrained);
    expect((await waiting).region).toBe("c");
  } finally {
    all.regions.line("a", "c").heal();
    await all.regions.db("b").query("UPDATE coregent.local SET drained_at = NULL");
  }
  await eventually(async () => expect((await read(5_000)).region).toBe("a"));
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
