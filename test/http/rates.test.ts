import { expect, test } from "vitest";
import { Rates } from "../../src/http/rates.ts";

test("each caller has so much in a second, and as much again in the next", () => {
  let nowMs = 5_000;
  const rates = new Rates(() => nowMs);
  const taken = (caller: string): boolean[] => [1, 2, 3].map(() => rates.take(caller, 2));
  expect([taken("a"), taken("b")]).toEqual([
    [true, true, false],
    [true, true, false],
  ]);
  expect([rates.isSpent("a", 2), rates.isSpent("c", 2)]).toEqual([true, false]);
  nowMs += 1_000;
  expect([rates.isSpent("a", 2), taken("a")]).toEqual([false, [true, true, false]]);
});

test("of callers beyond those that are remembered all together have what one has", () => {
  const rates = new Rates(() => 0);
  for (let caller = 0; caller < 10_000; caller += 1) rates.take(`caller ${caller}`, 2);
  const late = Array.from({ length: 10_000 }, (_, caller) => rates.take(`late ${caller}`, 2));
  expect(late.filter((taken) => taken)).toHaveLength(2);
  expect(rates.take("caller 1", 2)).toBe(true);
});
