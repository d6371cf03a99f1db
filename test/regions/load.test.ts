import { array, assert, constantFrom, double, integer, oneof, property as forAll, record } from "fast-check";
import { describe, expect, it } from "vitest";
import {
  afterDemand,
  idleLoad,
  withLatency,
  type LoadBounds,
  type LoadPhase,
  type LoadState,
} from "../../regions/load.ts";
import { runs } from "../conflict/runs.ts";

const bounds: LoadBounds = { maxQueue: 100, latencyFactor: 10, minLatencyMs: 50 };

const calm = (atMs: number) => ({ queued: 0, longestWaitMs: 0, atMs });
const crowd = (atMs: number, queued = 50) => ({ queued, longestWaitMs: 0, atMs });

const often = (state: LoadState, latencyMs: number, times: number): LoadState =>
  Array.from({ length: times }).reduce<LoadState>((sum) => withLatency(sum, latencyMs, bounds), state);

/** Usually 10 ms, so more than 100 ms is too much. */
const used = often(idleLoad(0), 10, 200);

describe("every phase after every look", () => {
  const passed = afterDemand(used, crowd(0), bounds);
  const returning = afterDemand(passed, calm(1_000), bounds);

  it.each<[string, LoadState, ReturnType<typeof calm>, [LoadPhase, number]]>([
    ["normal, calm", used, calm(0), ["normal", 1]],
    ["normal, a queue below the bound", used, crowd(0, 49), ["normal", 1]],
    ["normal, half of the queue full", used, crowd(0, 50), ["passedOver", 0]],
    ["normal, somebody waits for long", used, { queued: 1, longestWaitMs: 101, atMs: 0 }, ["passedOver", 0]],
    ["passed over, crowded", passed, crowd(5_000), ["passedOver", 0]],
    ["passed over, calm but not for long", passed, calm(999), ["passedOver", 0]],
    ["passed over, calm", passed, calm(1_000), ["returning", 0.1]],
    ["returning, calm", returning, calm(2_000), ["returning", 0.2]],
    ["returning, calm for longer", returning, calm(4_000), ["returning", 0.8]],
    ["returning, calm to the end", returning, calm(5_000), ["normal", 1]],
    ["returning, crowded", returning, crowd(2_000), ["passedOver", 0]],
  ])("%s", (_, state, look, expected) => {
    const next = afterDemand(state, look, bounds);
    expect([next.phase, next.share]).toEqual(expected);
    expect(next.reason === null).toBe(next.phase !== "passedOver");
  });
});

it("one slow answer is not a slow master, several are", () => {
  expect(afterDemand(often(used, 60_000, 1), calm(0), bounds).phase).toBe("normal");
  const slow = afterDemand(often(used, 60_000, 5), calm(0), bounds);
  expect(slow.phase).toBe("passedOver");
  expect(slow.reason).toMatch(/^it takes \d+ ms, usually 1\d ms$/);
});

it("latencies below the least bound are never too much, however unusual", () => {
  const quick = often(idleLoad(0), 0.1, 200);
  expect(afterDemand(often(quick, 49, 100), calm(0), bounds).phase).toBe("normal");
});

it("nothing is unusual before there is a usual", () => {
  expect(afterDemand(often(idleLoad(0), 5_000, 19), calm(0), bounds).phase).toBe("normal");
});

it("measurements while it is passed over bring it back, and hardly become its usual", () => {
  let state = afterDemand(often(used, 60_000, 4), calm(0), bounds);
  const usual = state.usualMs;
  state = often(state, 220, 5);
  expect(state.usualMs).toBeLessThan(usual + 10);
  expect(afterDemand(state, calm(9_000), bounds).phase).toBe("passedOver");
  state = often(state, 12, 50);
  expect(afterDemand(state, calm(20_000), bounds).phase).toBe("returning");
});

it("a master that has become far for good comes back, after a dozen measurements or two", () => {
  const far = { ...bounds, minLatencyMs: 250 };
  let state = used;
  let atMs = 0;
  const phases = new Set<LoadPhase>();
  for (; atMs < 60_000 && !(phases.has("returning") && state.phase === "normal"); atMs += 500) {
    state = afterDemand(withLatency(state, 600, far), calm(atMs), far);
    phases.add(state.phase);
  }
  expect([...phases]).toEqual(["normal", "passedOver", "returning"]);
  expect(atMs).toBeGreaterThan(5_000);
  expect(atMs).toBeLessThan(20_000);
});

it("rests twice as long each time that it comes back in vain, and begins anew after a long good time", () => {
  let state = used;
  let atMs = 0;
  const rests: number[] = [];
  for (let i = 0; i < 8; i += 1) {
    state = afterDemand(state, crowd(atMs), bounds);
    const from = atMs;
    while (state.phase === "passedOver") state = afterDemand(state, calm((atMs += 500)), bounds);
    rests.push(atMs - from);
  }
  expect(rests).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 32_000, 32_000]);
  state = afterDemand(state, calm((atMs += 10_000)), bounds);
  state = afterDemand(state, calm(atMs + 40_000), bounds);
  expect(state).toMatchObject({ phase: "normal", relapses: 0 });
});

const step = record({
  waitMs: integer({ min: 0, max: 3_000 }),
  queued: oneof(constantFrom(0, 0, 0), integer({ min: 0, max: 200 })),
  latencies: array(double({ min: 0, max: 100_000, noNaN: true }), { maxLength: 5 }),
});

it("whatever comes: the share fits the phase, grows by at most doubling a second, and calm always brings it back", () => {
  assert(
    forAll(array(step, { maxLength: 40 }), (steps) => {
      let state = idleLoad(0);
      let atMs = 0;
      for (const { waitMs, queued, latencies } of steps) {
        for (const latencyMs of latencies) state = withLatency(state, latencyMs, bounds);
        atMs += waitMs;
        const before = state;
        state = afterDemand(state, { queued, longestWaitMs: 0, atMs }, bounds);
        expect(Number.isFinite(state.recentMs) && Number.isFinite(state.usualMs)).toBe(true);
        expect(state.share === 0).toBe(state.phase === "passedOver");
        expect(state.share === 1).toBe(state.phase === "normal");
        if (queued >= 50) expect(state.phase).toBe("passedOver");
        const most = before.phase === "passedOver" ? 0.1 : before.share * 2 ** (waitMs / 1_000) + 1e-9;
        expect(state.share).toBeLessThanOrEqual(Math.max(most, Number(before.phase === "normal")));
      }
      for (let i = 0; i < 200 && state.phase !== "normal"; i += 1) {
        atMs += 500;
        state = afterDemand(withLatency(state, 1, bounds), calm(atMs), bounds);
      }
      expect(state.phase).toBe("normal");
    }),
    runs(300),
  );
});
