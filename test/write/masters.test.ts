import { pino } from "pino";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { untilBeatMs } from "../../src/clock.ts";
import { eventually } from "../support/database.ts";
import { HandClock } from "../support/hand-clock.ts";
import { healths, WritingRegions } from "./masters-fixture.ts";

let all: WritingRegions;

beforeAll(async () => {
  all = await WritingRegions.create();
});
afterEach(() => all.calm());
afterAll(() => all[Symbol.asyncDispose]());

test("every master is probed: health, round trip, clock", async () => {
  all.line("c").setConditions({ latencyMs: 30 });
  const masters = all.masters("a");
  await healths(masters, { a: "healthy", b: "healthy", c: "healthy" });
  expect(masters.views()[2]?.roundTripMs).toBeGreaterThanOrEqual(50);
  // The first probe may have waited for a core.
  await eventually(() => {
    const [a, , c] = masters.views();
    expect(a?.roundTripMs).toBeLessThan(c?.roundTripMs ?? 0);
  });
  expect(masters.find("b")?.clockReading?.skewMs).toBeLessThan(1_000);
});

test("a far one is never down: to connect takes many round trips, and each has its time", async () => {
  all.line("c").setConditions({ latencyMs: 300 });
  const seen: string[] = [];
  const logger = pino({ level: "info" }, { write: (line: string) => seen.push(line) });
  const masters = all.masters("a", { logger, settings: { probeTimeoutMs: 500, failuresToDown: 3 } });
  await healths(masters, { c: "healthy" });
  expect(masters.find("c")?.roundTripMs).toBeGreaterThanOrEqual(600);
  expect(seen.filter((line) => line.includes('"now":"down"'))).toEqual([]);
});

test("one that is further than a probe's bound is down neither, and dies all the same", async () => {
  all.line("c").setConditions({ latencyMs: 150 });
  const masters = all.masters("a", { settings: { probeTimeoutMs: 200, failuresToDown: 3 } });
  await healths(masters, { c: "healthy" });
  const { signal } = new AbortController();
  for (let i = 0; i < 3; i += 1) {
    await masters.find("c")?.judgedAnew(signal);
    expect(masters.find("c")?.health.health).toBe("healthy");
  }
  all.line("c").cut({ mode: "blackhole" });
  await healths(masters, { c: "down" });
});

test("one whose line breaks is down, with the reason, and is back when it has been well for a while", async () => {
  const masters = all.masters("a");
  await healths(masters, { b: "healthy" });
  all.line("b").cut({ mode: "reset" });
  await healths(masters, { a: "healthy", b: "down", c: "healthy" });
  expect(masters.views().find(({ name }) => name === "b")?.healthReason).toBe(
    "cannot be reached (ECONNRESET)",
  );
  all.line("b").heal();
  await healths(masters, { b: "healthy" });
});

test("a short question to one that falls silent ends with that it is down, and not with the line", async () => {
  const masters = all.masters("a");
  await healths(masters, { b: "healthy" });
  const b = masters.find("b");
  if (b === undefined) throw new Error("there is no master of b");
  const ask = () => b.unlessDown(b.query<{ n: number }>({ text: "SELECT 1 AS n" }));
  expect((await ask()).rows).toEqual([{ n: 1 }]);
  all.line("b").cut({ mode: "blackhole" });
  await expect(ask()).rejects.toMatchObject({
    code: "database-unavailable",
    message: "the master of b does not answer",
  });
  expect(b.health.health).toBe("down");
});

test("one that falls silent is down, and whoever waits for its answer hears of it", async () => {
  const masters = all.masters("a");
  await healths(masters, { b: "healthy" });
  const b = masters.find("b");
  const asking = b?.session((client) => client.query("SELECT pg_sleep(60)"), AbortSignal.timeout(60_000));
  const answer = expect(asking).rejects.toThrow(/onnection/);
  await eventually(() => b?.connections.inFlight === 1);
  all.line("b").cut({ mode: "blackhole" });
  await healths(masters, { b: "down" });
  await answer;
  expect(b?.health.reason).toBe("does not answer");
  // It is decided already: another probe would be silent for longer than this.
  const patience = AbortSignal.timeout(2_000);
  await b?.judgedAnew(patience);
  expect(patience.aborted).toBe(false);
  all.line("b").heal();
  await healths(masters, { b: "healthy" });
});

test("an answer that is late is waited for: one packet that was lost makes nothing down", async () => {
  const masters = all.masters("a", { settings: { probeTimeoutMs: 300, failuresToDown: 50 } });
  await healths(masters, { b: "healthy" });
  const probing = (): Promise<unknown> =>
    all.regions
      .db("b")
      .query(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'coregent probe b' AND datname = current_database()",
      );
  const before = await probing();
  expect(before).toHaveLength(1);
  all.line("b").cut({ mode: "blackhole" });
  await healths(masters, { b: "suspect" });
  all.line("b").heal();
  await healths(masters, { b: "healthy" });
  expect(await probing()).toEqual(before);
});

test("an answer to an earlier question counts when it comes, and the silence after it is not taken for distance", async () => {
  const hand = new HandClock();
  const settings = { probeMs: 300, probeTimeoutMs: 600, failuresToDown: 3 };
  const masters = all.masters("a", { clock: hand.clock, settings });
  await healths(masters, { b: "healthy" });
  const b = masters.find("b");
  if (b === undefined) throw new Error("there is no master of b");
  const db = all.regions.db("b");
  await db.query("SELECT pg_advisory_lock(1), pg_advisory_lock(2)");
  try {
    // Both go before the probe in its session: the first is answered 60 ms after it was sent, then nothing comes.
    const earlier = b.query({ text: "SELECT pg_advisory_lock(1)" });
    b.query({ text: "SELECT pg_advisory_lock(2)" }).catch(() => undefined);
    await hand.goOn(untilBeatMs(hand.nowMs, settings.probeMs));
    const beganMs = hand.nowMs;
    await hand.goOn(60);
    await db.query("SELECT pg_advisory_unlock(1)");
    await earlier;
    const failuresMs: number[] = [];
    while (b.health.health !== "down") {
      await hand.goOn(1);
      if (b.health.failures > failuresMs.length) failuresMs.push(hand.nowMs - beganMs);
    }
    expect(failuresMs).toEqual([675, 1_275, 1_875]);
  } finally {
    await db.query("SELECT pg_advisory_unlock_all()");
  }
});

test("a listener that throws ends no probes, and others are told all the same", async () => {
  const logged: string[] = [];
  const logger = pino({ level: "error" }, { write: (line: string) => logged.push(line) });
  const masters = all.masters("a", { logger });
  let told = 0;
  masters.onChange(() => {
    throw new Error("listener is broken");
  });
  masters.onChange(() => (told += 1));
  await healths(masters, { b: "healthy" });
  all.line("b").cut({ mode: "reset" });
  await healths(masters, { b: "down" });
  all.line("b").heal();
  await healths(masters, { b: "healthy" });
  expect(told).toBeGreaterThan(1);
  expect(logged.some((line) => line.includes("listener is broken"))).toBe(true);
});

test("one that is read-only is down", async () => {
  const db = all.regions.db("c");
  await db.query(`ALTER DATABASE "${db.name}" SET default_transaction_read_only = on`);
  try {
    const masters = all.masters("a");
    await healths(masters, { a: "healthy", c: "down" });
    expect(masters.views().find(({ name }) => name === "c")?.healthReason).toBe("is read-only");
  } finally {
    await db.query("SET default_transaction_read_only = off");
    await db.query(`ALTER DATABASE "${db.name}" RESET default_transaction_read_only`);
  }
});

test("a clock that is an hour ahead is fenced, one that is some seconds ahead is warned of", async () => {
  const [b, c] = [all.regions.db("b"), all.regions.db("c")];
  await b.query(`ALTER DATABASE "${b.name}" SET coregent.clock_offset_us = '5000000'`);
  await c.query(`ALTER DATABASE "${c.name}" SET coregent.clock_offset_us = '3600000000'`);
  try {
    const masters = all.masters("a", { settings: { warnSkewMs: 1_000, fenceSkewMs: 60_000 } });
    await eventually(() => masters.oddClocks.get("c")?.verdict === "fence");
    expect(masters.oddClocks.get("c")?.text).toBe("its clock is 60 min ahead of the others'");
    expect(masters.views().map(({ fenced }) => fenced !== null)).toEqual([false, false, true]);
  } finally {
    await b.query(`ALTER DATABASE "${b.name}" RESET coregent.clock_offset_us`);
    await c.query(`ALTER DATABASE "${c.name}" RESET coregent.clock_offset_us`);
  }
});
