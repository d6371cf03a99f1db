import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { afterProbe, unprobed } from "../../regions/health.ts";
import { afterLook, beginWait, patienceMs, type Wait } from "../../regions/patience.ts";
import { defaultWriterSettings } from "../../regions/writer-settings.ts";

const bounds = { probeTimeoutMs: 700 };

/** When nothing has come for too long, with a look every 10 ms; `heard` says what has come by then. */
const lateAt = (untilMs: number, heard: (atMs: number) => number, stepMs = 0): number[] => {
  let wait: Wait = beginWait({ heard: heard(0), atMs: 0 }, stepMs, bounds);
  const failures: number[] = [];
  for (let atMs = 10; atMs <= untilMs; atMs += 10) {
    const look = afterLook(wait, { heard: heard(atMs), atMs }, bounds);
    if (look.late) failures.push(atMs);
    wait = look.wait;
  }
  return failures;
};

const silent = (): number => 0;
const everyMs = (roundTripMs: number) => (atMs: number) => Math.floor(atMs / roundTripMs);

it("silence fails again and again, as often as the bound has passed", () => {
  expect(lateAt(2_200, silent)).toEqual([700, 1_400, 2_100]);
});

it("what is far is waited for longer the first time, but never three times as long", () => {
  expect(lateAt(2_000, silent, 500)).toEqual([1_000, 1_700]);
  expect(patienceMs(100, bounds)).toBe(700);
  // As measured, and as Node's timers take it.
  expect(patienceMs(400.6, bounds)).toBe(802);
  expect(patienceMs(60_000, bounds)).toBe(2_100);
});

it("six round trips, each within the bound, are no failure", () => {
  expect(lateAt(3_900, everyMs(600))).toEqual([]);
});

it("of round trips beyond the bound only the first fails: then it is known how far it is", () => {
  expect(lateAt(7_200, everyMs(1_000))).toEqual([700]);
});

describe("by the usual settings", () => {
  const usual = defaultWriterSettings;
  /** How the probes of a master end that take so long, each waited for as long as is learned from the one before. */
  const judged = (latenciesMs: readonly number[]): { readonly late: number; readonly wasDown: boolean } => {
    let state = unprobed(0);
    let stepMs = 0;
    let atMs = 0;
    let late = 0;
    let wasDown = false;
    for (const tookMs of latenciesMs) {
      const beganMs = atMs;
      let wait = beginWait({ heard: 0, atMs }, stepMs, usual);
      while (wait.lateAtMs < beganMs + tookMs) {
        atMs = wait.lateAtMs;
        ({ wait } = afterLook(wait, { heard: 0, atMs }, usual));
        state = afterProbe(state, { ok: false, atMs, reason: "does not answer" }, usual);
        late += 1;
        wasDown ||= state.health === "down";
      }
      atMs = beganMs + tookMs;
      state = afterProbe(state, { ok: true, atMs }, usual);
      stepMs = tookMs;
      atMs += usual.probeMs;
    }
    return { late, wasDown };
  };
  /** Of a round trip, whatever jitter adds. */
  const far = fc.integer({ min: 350, max: 590 });

  it("a master 350 ms away with as much jitter as there may be is never late", () => {
    fc.assert(
      fc.property(fc.array(far, { maxLength: 50 }), (latenciesMs) => {
        expect(judged(latenciesMs)).toEqual({ late: 0, wasDown: false });
      }),
    );
  });

  it("one whose packets are lost now and then, and come a second later, is not taken for down", () => {
    const lost = far.map((ms) => ms + 1_000);
    fc.assert(
      fc.property(
        fc.array(fc.oneof({ weight: 5, arbitrary: far }, { weight: 1, arbitrary: lost }), { maxLength: 50 }),
        (latenciesMs) => {
          expect(judged(latenciesMs).wasDown).toBe(false);
        },
      ),
    );
  });

  it("one that is silent is, within 2.1 s", () => {
    const { probeMs, failuresToDown } = usual;
    for (const stepMs of [0, 1, 300]) {
      let wait = beginWait({ heard: 0, atMs: probeMs }, stepMs, usual);
      for (let failures = 1; failures < failuresToDown; failures += 1)
        ({ wait } = afterLook(wait, { heard: 0, atMs: wait.lateAtMs }, usual));
      expect(wait.lateAtMs).toBe(2_100);
    }
  });
});

it("who begins to answer and then falls silent fails", () => {
  expect(lateAt(2_500, (atMs) => Math.min(2, Math.floor(atMs / 300)))).toEqual([1_300, 2_000]);
});
