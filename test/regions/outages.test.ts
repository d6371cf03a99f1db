import { describe, expect, test } from "vitest";
import {
  describeOutage,
  goodLine,
  lineCondition,
  type Outage,
  type OutageSpec,
  regionsConcerned,
} from "../../regions/outages.ts";

const all = ["moldova", "argentina", "new-zealand"];

const outage = (spec: OutageSpec, id = "o1"): Outage => ({ id, spec, startedAtMs: 0, endsAtMs: null });

/** The lines that are cut, as `agent>master`. */
const cutLines = (...specs: readonly OutageSpec[]): string[] =>
  all.flatMap((here) =>
    all
      .filter(
        (target) =>
          lineCondition(
            specs.map((spec) => outage(spec)),
            here,
            target,
          ).cutBy !== null,
      )
      .map((target) => `${here}>${target}`),
  );

describe("which lines are cut", () => {
  test("a region's: from it and to it, its own master's too, and no others", () => {
    expect(cutLines({ kind: "region", region: "argentina" })).toEqual([
      "moldova>argentina",
      "argentina>moldova",
      "argentina>argentina",
      "argentina>new-zealand",
      "new-zealand>argentina",
    ]);
  });

  test("a link's: both directions", () => {
    expect(cutLines({ kind: "link", from: "moldova", to: "argentina", oneWay: false })).toEqual([
      "moldova>argentina",
      "argentina>moldova",
    ]);
  });

  test("one way: what the first writes does not reach the second, whose agent reads it at the first's master", () => {
    expect(cutLines({ kind: "link", from: "moldova", to: "argentina", oneWay: true })).toEqual([
      "argentina>moldova",
    ]);
  });

  test("none by latency", () => {
    expect(
      cutLines({ kind: "latency", from: "moldova", to: "argentina", roundTripMs: 300, jitterMs: 0 }),
    ).toEqual([]);
  });
});

test("delays of several outages add up, half of the round trip in each direction", () => {
  const slow = { kind: "latency", from: "moldova", to: "argentina", roundTripMs: 300, jitterMs: 20 } as const;
  const outages = [outage(slow), outage({ ...slow, from: "argentina", to: "moldova" }, "o2")];
  expect(lineCondition(outages, "argentina", "moldova")).toEqual({
    cutBy: null,
    oneWayMs: 300,
    jitterMs: 40,
  });
  expect(lineCondition(outages, "new-zealand", "moldova")).toEqual(goodLine);
});

test("who must know: everybody of a region, both ends of a link", () => {
  expect(regionsConcerned({ kind: "region", region: "moldova" }, all)).toEqual(all);
  const link = { kind: "link", from: "new-zealand", to: "moldova", oneWay: true } as const;
  expect(regionsConcerned(link, all)).toEqual(["moldova", "new-zealand"]);
});

test("in words", () => {
  expect(describeOutage({ kind: "link", from: "a", to: "b", oneWay: true })).toBe("link a to b");
  expect(describeOutage({ kind: "latency", from: "a", to: "b", roundTripMs: 300, jitterMs: 50 })).toBe(
    "latency a and b: 300 ms, jitter 50 ms",
  );
});
