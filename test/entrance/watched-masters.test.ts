import { expect, test } from "vitest";
import type { RegionView } from "../../regions/route.ts";
import { postgresUrl } from "../../regions/secret.ts";
import type { MasterState } from "../../src/entrance/masters.ts";
import { WatchedMasters, type WatchedMastersOptions } from "../../src/entrance/watched-masters.ts";

const places = { moldova: [47, 29], argentina: [-34, -58], "new-zealand": [-41, 174] } as const;
type Name = keyof typeof places;

/** What the writer of Moldova sees. */
class Views {
  readonly here = "moldova";
  readonly doubted: string[] = [];
  #views = new Map<string, RegionView>();

  constructor() {
    for (const name of Object.keys(places) as Name[]) this.set(name, {});
  }

  set(name: Name, change: Partial<RegionView>): void {
    const [latitude, longitude] = places[name];
    const usual = {
      health: "healthy",
      healthReason: null,
      share: 1,
      loadReason: null,
      drained: false,
    } as const;
    this.#views.set(name, {
      name,
      latitude,
      longitude,
      ...usual,
      fenced: null,
      roundTripMs: null,
      ...change,
    });
  }

  remove(name: Name): void {
    this.#views.delete(name);
  }

  changed = (): void => undefined;

  onChange = (changed: () => void): (() => void) => {
    this.changed = changed;
    return () => {
      this.changed = () => undefined;
    };
  };

  views = (): readonly RegionView[] => [...this.#views.values()];

  find = (name: string): ReturnType<WatchedMastersOptions["masters"]["find"]> =>
    ({
      region: { postgres: postgresUrl(`postgres://app:x@${name}.example:6000/weightbook`) },
      doubt: () => this.doubted.push(name),
    }) as unknown as ReturnType<WatchedMastersOptions["masters"]["find"]>;
}

const watched = (
  views: Views,
): { masters: WatchedMasters; seen: [string, MasterState][]; regions: () => string[] } => {
  const masters = new WatchedMasters({ masters: views, random: () => 0.5 });
  const seen: [string, MasterState][] = [];
  masters.watch((region, state) => seen.push([region, state]));
  return { masters, seen, regions: () => masters.candidates().map(({ region }) => region) };
};

test("the nearest comes first, those that take nothing not at all, and changes are told once", () => {
  const views = new Views();
  const { masters, seen, regions } = watched(views);
  expect(regions()).toEqual(["moldova", "argentina", "new-zealand"]);
  expect(masters.candidates()[0]).toMatchObject({ host: "moldova.example", port: 6000 });
  views.set("argentina", { roundTripMs: 400 });
  views.set("new-zealand", { roundTripMs: 300 });
  views.set("moldova", { health: "suspect" });
  expect(regions()).toEqual(["new-zealand", "argentina", "moldova"]);
  expect(seen).toEqual([]);
  views.set("moldova", { health: "down" });
  views.set("argentina", { drained: true });
  masters.look();
  masters.look();
  expect(regions()).toEqual(["new-zealand"]);
  expect(seen).toEqual([
    ["moldova", "down"],
    ["argentina", "draining"],
  ]);
});

test("before a master is a candidate again, it is told that it is up", () => {
  const views = new Views();
  views.set("moldova", { health: "down" });
  const { masters, seen, regions } = watched(views);
  masters.look();
  views.set("moldova", {});
  expect(regions()[0]).toBe("moldova");
  expect(seen.at(-1)).toEqual(["moldova", "up"]);
});

test("a region that leaves loses its sessions; one with an odd clock is left", () => {
  const views = new Views();
  const { masters, seen, regions } = watched(views);
  masters.look();
  views.remove("new-zealand");
  views.set("argentina", { fenced: "its clock is 2 min ahead of the others'" });
  expect(regions()).toEqual(["moldova"]);
  expect(seen).toEqual([
    ["argentina", "draining"],
    ["new-zealand", "down"],
  ]);
});

test("a doubt reaches the probes", () => {
  const views = new Views();
  watched(views).masters.doubt("argentina");
  expect(views.doubted).toEqual(["argentina"]);
});

test("while it runs, what the writer finds out is told at once", async () => {
  const views = new Views();
  const { masters, seen } = watched(views);
  views.set("argentina", { health: "down" });
  const ending = new AbortController();
  const running = masters.run(ending.signal);
  expect(seen).toEqual([["argentina", "down"]]);
  views.set("argentina", {});
  views.changed();
  expect(seen.at(-1)).toEqual(["argentina", "up"]);
  ending.abort();
  await running;
  views.set("argentina", { health: "down" });
  views.changed();
  expect(seen).toHaveLength(2);
});
