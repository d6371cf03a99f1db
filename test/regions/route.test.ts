import {
  assert,
  boolean,
  constantFrom,
  double,
  option,
  property as forAll,
  record,
  shuffledSubarray,
  tuple,
} from "fast-check";
import { describe, expect, it } from "vitest";
import { distanceKm } from "../../regions/distance.ts";
import {
  atHome,
  chooseMaster,
  rankForClient,
  type RegionView,
  type RouteRequest,
} from "../../regions/route.ts";
import { weightbookRegions } from "../../regions/weightbook.ts";
import { runs } from "../conflict/runs.ts";

const names = weightbookRegions.map(({ name }) => name);

const view = (name: (typeof names)[number], change: Partial<RegionView> = {}): RegionView => {
  const place = weightbookRegions.find((region) => region.name === name) ?? weightbookRegions[0];
  return {
    name,
    latitude: place.latitude,
    longitude: place.longitude,
    health: "healthy",
    healthReason: null,
    share: 1,
    loadReason: null,
    drained: false,
    fenced: null,
    roundTripMs: null,
    ...change,
  };
};

const regionsWith = (changes: Partial<Record<(typeof names)[number], Partial<RegionView>>>): RegionView[] =>
  names.map((name) => view(name, changes[name]));

/** A write in Moldova of a row that New Zealand owns. */
const request: RouteRequest = {
  here: "moldova",
  owners: ["new-zealand"],
  route: "owner",
  failover: "takeover",
  chance: 0.5,
};

/** `region choice`, with `!` where the write takes over. */
const chosen = (change: Partial<RouteRequest>, regions: readonly RegionView[]): string[] =>
  chooseMaster({ ...request, ...change }, regions).map(
    ({ region, choice, takeover }) => `${region} ${choice}${takeover ? "!" : ""}`,
  );

const down = { health: "down", healthReason: "does not answer" } as const;
const busy = { share: 0, loadReason: "200 requests wait for it" } as const;

describe("where a write goes", () => {
  it.each<[string, Partial<RouteRequest>, RegionView[], string[]]>([
    [
      "to the owner, else here, else to the nearest by distance",
      {},
      regionsWith({}),
      ["new-zealand owner", "moldova here", "argentina nearest"],
    ],
    [
      "a row that nobody owns: here",
      { owners: [] },
      regionsWith({}),
      ["moldova here", "argentina nearest", "new-zealand nearest"],
    ],
    [
      "by round trip, once it is measured",
      { owners: [] },
      regionsWith({ argentina: { roundTripMs: 300 }, "new-zealand": { roundTripMs: 250 } }),
      ["moldova here", "new-zealand nearest", "argentina nearest"],
    ],
    [
      "a table that is written to nearby, whoever owns the row",
      { route: "nearest" },
      regionsWith({}),
      ["moldova here", "argentina nearest", "new-zealand nearest"],
    ],
    [
      "the same, and its owner is down: no takeover",
      { route: "nearest" },
      regionsWith({ "new-zealand": down }),
      ["moldova here", "argentina nearest", "new-zealand down"],
    ],
    [
      "the owner is down: the nearest takes over",
      {},
      regionsWith({ "new-zealand": down }),
      ["moldova here!", "argentina nearest!", "new-zealand down"],
    ],
    [
      "provisionally",
      { failover: "provisional" },
      regionsWith({ "new-zealand": down }),
      ["moldova here", "argentina nearest", "new-zealand down"],
    ],
    [
      "the owner is down, and so is this region's master",
      {},
      regionsWith({ "new-zealand": down, moldova: down }),
      ["argentina nearest!", "moldova down", "new-zealand down"],
    ],
    [
      "the owner has too much to do: the backup writes, without its authority",
      {},
      regionsWith({ "new-zealand": busy }),
      ["moldova here", "argentina nearest", "new-zealand overextended"],
    ],
    [
      "the owner comes back, and this request is among its share",
      { chance: 0.09 },
      regionsWith({ "new-zealand": { share: 0.1 } }),
      ["new-zealand owner", "moldova here", "argentina nearest"],
    ],
    [
      "the owner comes back, and this request is not",
      { chance: 0.1 },
      regionsWith({ "new-zealand": { share: 0.1 } }),
      ["moldova here", "argentina nearest", "new-zealand overextended"],
    ],
    [
      "the owner may be down: it is asked first all the same",
      {},
      regionsWith({ "new-zealand": { health: "suspect" } }),
      ["new-zealand owner", "moldova here", "argentina nearest"],
    ],
    [
      "another that may be down is asked last",
      { owners: [] },
      regionsWith({ moldova: { health: "suspect" } }),
      ["argentina nearest", "new-zealand nearest", "moldova suspect"],
    ],
    [
      "all have too much to do: they are asked nevertheless, the nearest first",
      {},
      regionsWith({ moldova: busy, argentina: busy, "new-zealand": busy }),
      ["moldova overextended", "argentina overextended", "new-zealand overextended"],
    ],
    [
      "drained and fenced regions are out, and nobody takes over from them",
      {},
      regionsWith({ "new-zealand": { drained: true }, argentina: { fenced: "its clock is an hour ahead" } }),
      ["moldova here", "new-zealand drained", "argentina fenced"],
    ],
    [
      "unless they are down as well",
      {},
      regionsWith({ "new-zealand": { drained: true, ...down } }),
      ["moldova here!", "argentina nearest!", "new-zealand down"],
    ],
    [
      "an owner that is no region",
      { owners: ["atlantis"] },
      regionsWith({}),
      ["moldova here", "argentina nearest", "new-zealand nearest"],
    ],
    [
      "rows of two owners, one of them down: no takeover from the other",
      { owners: ["new-zealand", "argentina"] },
      regionsWith({ "new-zealand": down }),
      ["moldova here", "argentina nearest!", "new-zealand down"],
    ],
    [
      "rows of two owners, both down",
      { owners: ["new-zealand", "argentina"] },
      regionsWith({ "new-zealand": down, argentina: down }),
      ["moldova here!", "argentina down", "new-zealand down"],
    ],
  ])("%s", (_, change, regions, expected) => {
    expect(chosen(change, regions)).toEqual(expected);
  });
});

it("says why, of every region", () => {
  const regions = [
    view("moldova", { health: "suspect", healthReason: "does not answer" }),
    view("argentina", { roundTripMs: 188.4 }),
    view("new-zealand", { ...down, healthReason: "is read-only" }),
  ];
  expect(chooseMaster(request, regions).map(({ region, because }) => `${region} ${because}`)).toEqual([
    "argentina is 188 ms away",
    "moldova may be down: it does not answer",
    "new-zealand is down: it is read-only",
  ]);
  const others = regionsWith({ argentina: { fenced: "its clock is an hour ahead" }, "new-zealand": busy });
  expect(chooseMaster({ ...request, here: "argentina" }, others).map(({ because }) => because)).toEqual([
    "is 12549 km away; its round trip is not measured yet",
    "is passed over: 200 requests wait for it",
    "is fenced: its clock is an hour ahead",
  ]);
});

const anyView = record({
  health: constantFrom("healthy", "suspect", "down"),
  share: constantFrom(0, 0.1, 0.5, 1),
  drained: boolean(),
  fenced: constantFrom(null, null, "its clock is an hour ahead"),
  roundTripMs: option(double({ min: 0, max: 500, noNaN: true })),
} as const);
const anyRegions = tuple(anyView, anyView, anyView).map((views) =>
  names.map((name, index) => view(name, views[index] as Partial<RegionView>)),
);
const anyRequest = record({
  here: constantFrom(...names),
  owners: shuffledSubarray([...names, "atlantis"]),
  route: constantFrom("owner", "nearest"),
  failover: constantFrom("takeover", "provisional"),
  chance: double({ min: 0, max: 1, noNaN: true, maxExcluded: true }),
} as const);

it("whatever is down, drained or fenced", () => {
  assert(
    forAll(anyRegions, anyRequest, (regions, asked) => {
      const verdicts = chooseMaster(asked, regions);
      const of = (name: string): RegionView =>
        regions.find((region) => region.name === name) ?? view("moldova");
      // Each region once, and candidates before all others.
      expect(verdicts.map(({ region }) => region).toSorted()).toEqual([...names].toSorted());
      const candidates = verdicts.filter(({ candidate }) => candidate);
      expect(verdicts.slice(0, candidates.length)).toEqual(candidates);
      // Nothing is written where it must not be, and what can be written to is not left out.
      const usable = regions.filter((r) => r.health !== "down" && !r.drained && r.fenced === null);
      expect(candidates.map(({ region }) => region).toSorted()).toEqual(
        usable.map(({ name }) => name).toSorted(),
      );
      // What is found at home without a look at the others is the same.
      const here = of(asked.here);
      expect([null, verdicts[0]]).toContainEqual(atHome(asked, here));
      if (verdicts[0]?.choice === "here") {
        const strangers = asked.route === "owner" && asked.owners.some((owner) => owner !== asked.here);
        expect(atHome(asked, here) === null).toBe(strangers);
      }
      // A well owner writes.
      const owner = usable.find(({ name }) => name === asked.owners[0]);
      if (asked.route === "owner" && owner !== undefined && owner.share > asked.chance) {
        expect(candidates[0]?.region).toBe(owner.name);
      }
      // Nobody takes over from an owner that is not down, nor where the table's rule forbids it.
      for (const { region, takeover } of verdicts.filter((each) => each.takeover)) {
        const others = asked.owners.filter((name) => name !== region);
        expect(takeover && others.length > 0 && others.every((name) => of(name).health === "down")).toBe(
          true,
        );
        expect([asked.route, asked.failover]).toEqual(["owner", "takeover"]);
      }
      // Healthy ones before suspects, and no region that is passed over before one that is not.
      const first = candidates.find(({ choice }) => choice !== "owner");
      if (
        usable.some(
          (r) => r.health === "healthy" && r.share > asked.chance && r.name !== candidates[0]?.region,
        )
      ) {
        expect(["here", "nearest"]).toContain(first?.choice);
      }
    }),
    runs(1_000),
  );
});

it("ranks for a client: those that take writes first, each part by distance", () => {
  const wellington = { latitude: -41.3, longitude: 174.8 };
  const ranked = (changes: Parameters<typeof regionsWith>[0]): string[] =>
    rankForClient(wellington, regionsWith(changes)).map(({ region }) => region);
  expect(ranked({})).toEqual(["new-zealand", "argentina", "moldova"]);
  expect(ranked({ "new-zealand": down })).toEqual(["argentina", "moldova", "new-zealand"]);
  expect(ranked({ "new-zealand": { drained: true }, argentina: busy })).toEqual([
    "moldova",
    "new-zealand",
    "argentina",
  ]);
  assert(
    forAll(anyRegions, (regions) => {
      const all = rankForClient(wellington, regions);
      for (const [index, each] of all.entries()) {
        const next = all[index + 1];
        expect(each.km).toBe(distanceKm(wellington, view(each.region as (typeof names)[number])));
        if (next !== undefined && each.healthy === next.healthy) expect(each.km).toBeLessThanOrEqual(next.km);
        if (next?.healthy === true) expect(each.healthy).toBe(true);
      }
    }),
    runs(200),
  );
});
