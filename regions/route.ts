import { distanceKm, oneWayLatencyMs, type Place } from "./distance.ts";
import type { Health } from "./health.ts";
import type { Failover, Route } from "./table-settings.ts";

/** What the observer knows of one region when it chooses. */
export interface RegionView extends Place {
  readonly name: string;
  readonly health: Health;
  /** Why it is not healthy, for people. */
  readonly healthReason: string | null;
  /** Of what is meant for it, the part that it gets (load.ts). */
  readonly share: number;
  readonly loadReason: string | null;
  /** Taken out for maintenance. */
  readonly drained: boolean;
  /** Its clock is odd: how. null: it is not. */
  readonly fenced: string | null;
  /** As measured; null: not yet. */
  readonly roundTripMs: number | null;
}

export interface RouteRequest {
  /** The region of the observer. */
  readonly here: string;
  /** The owners of the rows that are written, the one who owns most first; [] where nobody owns them. */
  readonly owners: readonly string[];
  readonly route: Route;
  readonly failover: Failover;
  /** In [0, 1): decides which requests an overextended master that comes back gets. */
  readonly chance: number;
}

/** In the order in which they are tried. */
export type Choice =
  | "owner" // it owns the rows
  | "here" // it is the observer's own
  | "nearest" // it is the nearest that is healthy
  | "suspect" // a probe has failed, or none has come back yet
  | "overextended" // it has too much to do, and so have all before it
  | "drained"
  | "fenced"
  | "down";

export interface RegionVerdict {
  readonly region: string;
  readonly choice: Choice;
  /** Whether it may be written to. */
  readonly candidate: boolean;
  /** A write there takes over from an owner that is down. */
  readonly takeover: boolean;
  /** A sentence for people. */
  readonly because: string;
}

const ranks: Readonly<Record<Choice, number>> = {
  owner: 0,
  here: 1,
  nearest: 1,
  suspect: 2,
  overextended: 3,
  drained: 4,
  fenced: 5,
  down: 6,
};

export const mayWrite = (choice: Choice): boolean => ranks[choice] <= ranks.overextended;

/** Round trip as measured, else as a good line of that length has it. */
const expectedRoundTripMs = (region: RegionView, from: Place): number =>
  region.roundTripMs ?? 2 * oneWayLatencyMs(from, region);

/**
 * Every region, best first: the candidates in the order in which they are to be tried, then those that are out, each with
 * the reason.
 */
export const chooseMaster = (
  request: RouteRequest,
  regions: readonly RegionView[],
): readonly RegionVerdict[] => {
  const home = regions.find(({ name }) => name === request.here);
  return regions
    .map((region) => {
      const choice = choiceOf(region, request);
      const near =
        region.name === request.here ? -1 : home === undefined ? 0 : expectedRoundTripMs(region, home);
      return { region, choice, near };
    })
    .toSorted((a, b) => ranks[a.choice] - ranks[b.choice] || a.near - b.near)
    .map(({ region, choice }) => ({
      region: region.name,
      choice,
      candidate: mayWrite(choice),
      takeover: mayWrite(choice) && takesOver(region, request, regions),
      because: because(region, choice, home),
    }));
};

/**
 * The verdict on the observer's own region where that alone shows it to be the best, as for most requests; null: the others
 * have to be looked at. The same as the first of `chooseMaster`.
 */
export const atHome = (request: RouteRequest, home: RegionView): RegionVerdict | null => {
  const { owners, route, here } = request;
  const others = route === "owner" && owners.some((owner) => owner !== here);
  const choice = others || home.name !== here ? null : choiceOf(home, request);
  if (choice !== "owner" && choice !== "here") return null;
  return {
    region: here,
    choice,
    candidate: true,
    takeover: false,
    because: because(home, choice, home),
  };
};

const owns = (region: RegionView, { owners, route }: RouteRequest): boolean =>
  route === "owner" && owners[0] === region.name;

const choiceOf = (region: RegionView, request: RouteRequest): Choice => {
  if (region.health === "down") {
    return "down";
  }
  if (region.drained || region.fenced !== null) {
    return region.drained ? "drained" : "fenced";
  }
  if (region.share <= request.chance) {
    return "overextended";
  }
  // A suspect owner is tried all the same: its rows are nobody else's before it is known to be down.
  if (owns(region, request)) {
    return "owner";
  }
  if (region.health === "suspect") {
    return "suspect";
  }
  return region.name === request.here ? "here" : "nearest";
};

/** All owners but this region are down: of rows whose owner can be reached, nobody takes the authority away. */
const takesOver = (
  region: RegionView,
  { owners, route, failover }: RouteRequest,
  regions: readonly RegionView[],
): boolean => {
  const others = owners.filter((owner) => owner !== region.name);
  const isDown = (name: string): boolean => regions.find((other) => other.name === name)?.health === "down";
  return route === "owner" && failover === "takeover" && others.length > 0 && others.every(isDown);
};

const because = (region: RegionView, choice: Choice, home: Place | undefined): string => {
  switch (choice) {
    case "owner":
      return region.health === "healthy" ? "owns the rows" : "owns the rows, and is not known to be down";
    case "here":
      return "is this region's own master";
    case "nearest":
      return distanceText(region, home);
    case "suspect":
      return region.healthReason === null ? "was not probed yet" : `may be down: it ${region.healthReason}`;
    case "overextended":
      return `is passed over: ${region.loadReason ?? "it comes back from having too much to do"}`;
    case "drained":
      return "is drained";
    case "fenced":
      return `is fenced: ${region.fenced ?? ""}`;
    case "down":
      return `is down: it ${region.healthReason ?? "does not answer"}`;
  }
};

const distanceText = (region: RegionView, home: Place | undefined): string => {
  if (region.roundTripMs !== null) {
    return `is ${region.roundTripMs < 10 ? region.roundTripMs.toFixed(1) : Math.round(region.roundTripMs)} ms away`;
  }
  return home === undefined
    ? "is somewhere"
    : `is ${Math.round(distanceKm(home, region))} km away; its round trip is not measured yet`;
};

export interface RankedRegion {
  readonly region: string;
  /** From the client, great-circle. */
  readonly km: number;
  readonly healthy: boolean;
}

/** The regions for a client at that place: those that take writes first, each part by distance. */
export const rankForClient = (client: Place, regions: readonly RegionView[]): readonly RankedRegion[] =>
  regions
    .map((region) => ({
      region: region.name,
      km: distanceKm(client, region),
      healthy: region.health === "healthy" && !region.drained && region.fenced === null && region.share > 0,
    }))
    .toSorted((a, b) => Number(b.healthy) - Number(a.healthy) || a.km - b.km);
