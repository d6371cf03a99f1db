import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { byDistance, distanceKm, earthRadiusKm, oneWayLatencyMs } from "../../regions/distance.ts";
import { weightbookLatencyMs, weightbookRegions } from "../../regions/weightbook.ts";

const [moldova, argentina, newZealand] = weightbookRegions;
const place = fc.record({
  latitude: fc.double({ min: -90, max: 90, noNaN: true }),
  longitude: fc.double({ min: -180, max: 180, noNaN: true }),
});
const halfRound = Math.PI * earthRadiusKm;

describe("distance", () => {
  test.each([
    // By the law of cosines of a sphere, which for places this far apart is precise, too.
    ["pole to pole", { latitude: 90, longitude: 0 }, { latitude: -90, longitude: 77 }, halfRound],
    [
      "a quarter of the equator",
      { latitude: 0, longitude: 170 },
      { latitude: 0, longitude: -100 },
      halfRound / 2,
    ],
    ["nowhere", { latitude: 12, longitude: 34 }, { latitude: 12, longitude: 34 }, 0],
    [
      "over the date line",
      { latitude: 0, longitude: 179.5 },
      { latitude: 0, longitude: -179.5 },
      halfRound / 180,
    ],
  ])("%s", (_, from, to, km) => {
    expect(distanceKm(from, to)).toBeCloseTo(km, 6);
  });

  test("Nashville to Los Angeles, the published example", () => {
    // https://rosettacode.org/wiki/Haversine_formula: 2886.44 km with a radius of 6371.0 km or so.
    const km = distanceKm({ latitude: 36.12, longitude: -86.67 }, { latitude: 33.94, longitude: -118.4 });
    expect(km).toBeCloseTo(2886.45, 1);
  });

  test("is symmetric, bounded and obeys the triangle", () => {
    fc.assert(
      fc.property(place, place, place, (a, b, c) => {
        expect(distanceKm(a, b)).toBeCloseTo(distanceKm(b, a), 6);
        expect(distanceKm(a, b)).toBeGreaterThanOrEqual(0);
        expect(distanceKm(a, b)).toBeLessThanOrEqual(halfRound + 1e-6);
        expect(distanceKm(a, c)).toBeLessThanOrEqual(distanceKm(a, b) + distanceKm(b, c) + 1e-3);
      }),
    );
  });

  test("orders places", () => {
    expect(byDistance(moldova, weightbookRegions).map(({ name }) => name)).toEqual([
      "moldova",
      "argentina",
      "new-zealand",
    ]);
  });
});

describe("the demo's regions", () => {
  test("round trips are 150 to 300 ms, and follow the distance", () => {
    const roundTrip = (
      a: typeof moldova | typeof argentina,
      b: typeof argentina | typeof newZealand,
    ): number => weightbookLatencyMs(a, b) + weightbookLatencyMs(b, a);
    const trips = [
      roundTrip(argentina, newZealand),
      roundTrip(moldova, argentina),
      roundTrip(moldova, newZealand),
    ];
    expect(trips).toEqual(trips.toSorted((a, b) => a - b));
    expect(trips[0]).toBeGreaterThanOrEqual(150);
    expect(trips[2]).toBeLessThanOrEqual(300);
    expect(weightbookLatencyMs(moldova, moldova)).toBe(0);
    expect(oneWayLatencyMs(moldova, argentina)).toBeCloseTo((distanceKm(moldova, argentina) * 1.5) / 200, 9);
  });
});
