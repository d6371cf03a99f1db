import { expect, it } from "vitest";
import { afterLook, beginWait, patienceMs, type Wait } from "../../regions/patience.ts";

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

it("who begins to answer and then falls silent fails", () => {
  expect(lateAt(2_500, (atMs) => Math.min(2, Math.floor(atMs / 300)))).toEqual([1_300, 2_000]);
});
