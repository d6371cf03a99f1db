import { describe, expect, test } from "vitest";
import type { Bar, Measure } from "../bench/case.ts";
import { cases } from "../bench/cases.ts";
import { readOptions } from "../bench/options.ts";
import { cpuRow, judge } from "../bench/report.ts";
import { median, quantile } from "../bench/statistics.ts";

const measured = (ours: readonly number[], native: readonly number[], bar: Bar | null): Measure => ({
  name: "case",
  title: "a case",
  unit: "rows/s",
  ours,
  native,
  bar,
});

describe("judge", () => {
  test("takes the medians, and names the lowest and the highest run", () => {
    const judged = judge(measured([5, 1, 3], [2, 4], null));
    expect(judged).toMatchObject({ ours: 3, native: 3, ratio: 1, met: null });
    expect(judged.range).toEqual({ ours: [1, 5], native: [2, 4], nativeBinary: null });
  });

  test.each<[string, Bar, boolean, boolean]>([
    ["a ratio", { of: "ratio", is: "at least", value: 1.5, aim: 2.1 }, true, false],
    ["a ratio that is missed", { of: "ratio", is: "at least", value: 2.1, aim: 3 }, false, false],
    ["our own figure", { of: "ours", is: "at most", value: 20, aim: 10 }, true, false],
    ["a distance from native", { of: "difference", is: "at most", value: 10, aim: 9 }, true, false],
  ])("holds %s against bar and aim", (_, bar, met, aimMet) => {
    expect(judge(measured([20], [10], bar))).toMatchObject({ met, aimMet });
  });

  test("says nothing of a ratio when there is nothing to compare with", () => {
    const bar: Bar = { of: "ratio", is: "at least", value: 1, aim: null };
    expect(judge(measured([20], [], bar))).toMatchObject({ ratio: null, met: null });
  });
});

test("the busiest part, or all of them on the cores there are, bound the rate", () => {
  const line = { name: "case", side: "ours", changes: 1e6 };
  expect(cpuRow({ ...line, uses: [{ source: 1, agent: 1, target: 4 }] }).bound).toBe(250_000);
  expect(cpuRow({ ...line, uses: [{ source: 4, agent: 4, target: 4 }] }).bound).toBeCloseTo(166_667, 0);
});

test("medians and quantiles", () => {
  expect(median([4, 1, 3, 2])).toBe(2.5);
  expect(quantile([4, 1, 3, 2], 0.5)).toBe(2);
  expect(quantile([4, 1, 3, 2], 0.99)).toBe(4);
  expect(median([])).toBeNaN();
});

test("every case has a name of its own", () => {
  const names = cases.map(({ name }) => name);
  expect(new Set(names).size).toBe(names.length);
});

test("options are read, and refused out of their range", () => {
  expect(readOptions([])).toMatchObject({ runs: 5, warmUps: 1, scale: 1 });
  expect(readOptions(["--quick"])).toMatchObject({ runs: 1, warmUps: 0 });
  expect(() => readOptions(["--runs", "0"])).toThrow("--runs");
  expect(() => readOptions(["--nonsense"])).toThrow();
});
