import { expect, test } from "vitest";
import { systemClock, untilBeatMs } from "../src/clock.ts";

test("loops that began at different times come to the same beats, and no later than they would otherwise", () => {
  const beats = (beganMs: number, workMs: number, everyMs: number): number[] => {
    const times: number[] = [];
    for (let nowMs = beganMs; times.length < 4;) {
      const waitMs = untilBeatMs(nowMs + workMs, everyMs);
      expect(waitMs).toBeLessThanOrEqual(everyMs + 2);
      nowMs += workMs + waitMs;
      times.push(Math.floor(nowMs));
    }
    return times.map((atMs) => Math.floor(atMs / 10) * 10);
  };
  expect(beats(10, 0.4, 300)).toEqual([300, 600, 900, 1_200]);
  expect(beats(90.7, 30, 300)).toEqual([300, 600, 900, 1_200]);
  expect(beats(1_001.5, 0, 2_000)).toEqual([2_000, 4_000, 6_000, 8_000]);
});

test("a timer that is a moment early does not make a beat come twice", () => {
  const earlyMs = 600 + untilBeatMs(600.2, 300) - 1;
  expect(untilBeatMs(earlyMs + 0.2, 300)).toBeGreaterThan(290);
});

test("a beat and a nap end early when they are told to", async () => {
  const clock = systemClock();
  const ending = new AbortController();
  const beat = clock.beat(3_600_000, ending.signal);
  ending.abort();
  await beat;
  await clock.beat(3_600_000, ending.signal);
  const nap = clock.nap();
  const taken = nap.take(3_600_000);
  nap.end();
  await taken;
  // Nobody naps, and so the next one is whole.
  nap.end();
  const before = clock.monotonic();
  await nap.take(20);
  expect(clock.monotonic() - before).toBeGreaterThan(15);
});
