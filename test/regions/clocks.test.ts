import { array, assert, integer, property as forAll } from "fast-check";
import { describe, expect, it } from "vitest";
import { judgeClocks, type ClockVerdict } from "../../regions/clocks.ts";
import { runs } from "../conflict/runs.ts";

const bounds = { warnSkewMs: 1_000, fenceSkewMs: 60_000 };
const hour = 3_600_000;

const verdicts = (skews: readonly number[], uncertaintyMs = 0): ClockVerdict[] =>
  judgeClocks(
    skews.map((skewMs, index) => ({ region: `r${index}`, skewMs, uncertaintyMs })),
    bounds,
  ).map(({ verdict }) => verdict);

describe("who is odd", () => {
  it.each<[string, number[], ClockVerdict[]]>([
    ["nobody", [0, 5, -5], ["fine", "fine", "fine"]],
    ["one of three, an hour ahead", [hour, 0, 3], ["fence", "fine", "fine"]],
    ["one of three, an hour behind", [0, -hour, 3], ["fine", "fence", "fine"]],
    ["one of three, a little", [0, 0, 2_000], ["fine", "fine", "warn"]],
    ["the observer's machine and its own master", [0, hour, hour], ["fence", "fine", "fine"]],
    ["the observer alone, of three", [hour, hour, hour], ["fine", "fine", "fine"]],
    ["one of two, whom the observer contradicts", [0, hour], ["fine", "fence"]],
    ["the observer, of two who agree", [hour, hour], ["fine", "fine"]],
    ["one alone", [hour], ["fine"]],
    ["one of five", [0, 0, -hour, 1, 2], ["fine", "fine", "fence", "fine", "fine"]],
    ["none", [], []],
  ])("%s", (_, skews, expected) => {
    expect(verdicts(skews)).toEqual(expected);
  });
});

it("what half a round trip may explain is not held against a clock", () => {
  expect(verdicts([0, 0, 1_300], 200)).toEqual(["fine", "fine", "warn"]);
  expect(verdicts([0, 0, 1_300], 400)).toEqual(["fine", "fine", "fine"]);
});

it("those who agree are never fenced while they are more than half", () => {
  assert(
    forAll(
      array(integer({ min: -500, max: 500 }), { minLength: 3, maxLength: 9 }),
      array(integer({ min: -10 * hour, max: 10 * hour }), { maxLength: 9 }),
      (agreeing, others) => {
        const odd = others.slice(0, agreeing.length - 2);
        const judged = verdicts([...agreeing, ...odd]);
        expect(judged.slice(0, agreeing.length).every((verdict) => verdict === "fine")).toBe(true);
      },
    ),
    runs(500),
  );
});
