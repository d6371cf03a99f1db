import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { backoffCeilingMs, backoffMs, createBackoff, systemClock } from "../../src/clock.ts";

const options = { firstMs: 100, maxMs: 5_000 };

describe("backoff", () => {
  test("doubles up to its bound, by half at least and never beyond", () => {
    const ceilings = [0, 1, 2, 5, 6, 1_000].map((attempt) => backoffCeilingMs(options, attempt));
    expect(ceilings).toEqual([100, 200, 400, 3_200, 5_000, 5_000]);
    expect(backoffMs(options, 1, () => 0)).toBe(100);
    expect(backoffMs(options, 1, () => 0.5)).toBe(150);
    fc.assert(
      fc.property(
        fc.nat(2_000),
        fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        (attempt, chance) => {
          const wait = backoffMs(options, attempt, () => chance);
          const ceiling = backoffCeilingMs(options, attempt);
          expect(wait).toBeGreaterThanOrEqual(ceiling / 2);
          expect(wait).toBeLessThanOrEqual(ceiling);
        },
      ),
    );
  });

  test("counts failures until a success", () => {
    const backoff = createBackoff({ ...options, factor: 3 }, () => 0);
    expect([backoff.nextMs(), backoff.nextMs(), backoff.nextMs(), backoff.failures]).toEqual([
      50, 150, 450, 3,
    ]);
    backoff.reset();
    expect([backoff.failures, backoff.nextMs()]).toEqual([0, 50]);
  });
});

describe("the machine's clock", () => {
  const clock = systemClock();

  test("sleeps as long as asked", async () => {
    const before = clock.monotonic();
    await clock.sleep(20);
    expect(clock.monotonic() - before).toBeGreaterThanOrEqual(19);
    expect(Math.abs(clock.now() - Date.now())).toBeLessThan(1_000);
  });

  test("wakes with the reason when it is aborted, and does not begin when it was", async () => {
    const controller = new AbortController();
    const reason = new Error("stop");
    const sleeping = clock.sleep(60_000, controller.signal);
    controller.abort(reason);
    await expect(sleeping).rejects.toBe(reason);
    await expect(clock.sleep(60_000, controller.signal)).rejects.toBe(reason);
  });
});
