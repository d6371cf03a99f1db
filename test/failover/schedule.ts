import { seeded, type Random } from "../../src/demo/random.ts";

/** What befalls which region, decided by the seed alone. Times in milliseconds. */

export type FaultKind =
  | "kill server"
  | "kill agent"
  | "kill both"
  /** Simulated: `coregent outage start region`. */
  | "outage"
  /** The lines to the others are cut: silently, or so that connections break. */
  | "isolate"
  | "disconnect"
  /** Taken out for maintenance, and resumed: nothing at all may fail. */
  | "drain";

export interface Fault {
  readonly kind: FaultKind;
  readonly region: string;
  /** From the episode's beginning. */
  readonly afterMs: number;
  readonly forMs: number;
}

/** Faults that overlap. One region at least is left alone; before the next episode all are well again. */
export interface Episode {
  readonly faults: readonly Fault[];
}

const bag: readonly FaultKind[] = [
  "kill server",
  "kill both",
  "outage",
  "kill server",
  "isolate",
  "kill agent",
  "kill both",
  "disconnect",
  "drain",
];
const second: readonly [FaultKind, ...FaultKind[]] = [
  "kill server",
  "kill server",
  "kill both",
  "kill agent",
];

const shuffled = <T>(items: readonly T[], random: Random): T[] =>
  items
    .map((item) => ({ item, at: random.next() }))
    .toSorted((a, b) => a.at - b.at)
    .map(({ item }) => item);

/** How long: some are over before anybody has taken over, most are not. */
const lengthMs = (random: Random): number =>
  random.chance(0.25) ? random.integer(200, 1_500) : random.integer(2_500, 6_000);

/** Without end. Each kind comes within nine. */
export function* episodesOf(seed: number, regions: readonly [string, ...string[]]): Generator<Episode> {
  const random = seeded(seed, "failover");
  for (;;) {
    for (const kind of shuffled(bag, random)) yield episodeOf(kind, random, regions);
  }
}

const episodeOf = (kind: FaultKind, random: Random, regions: readonly [string, ...string[]]): Episode => {
  const [region = "", other = ""] = shuffled(regions, random);
  const first: Fault = { kind, region, afterMs: 0, forMs: kind === "drain" ? 3_000 : lengthMs(random) };
  if (kind === "drain") return { faults: [first] };
  const faults = [first];
  if (random.chance(0.3) && kind.startsWith("kill"))
    faults.push({
      kind: random.pick(second),
      region,
      afterMs: first.forMs + random.integer(0, 2_500),
      forMs: lengthMs(random),
    });
  if (random.chance(0.45))
    faults.push({
      kind: random.pick(second),
      region: other,
      afterMs: random.integer(0, first.forMs + 2_000),
      forMs: lengthMs(random),
    });
  return { faults };
};

export const describeFault = ({ kind, region, afterMs, forMs }: Fault): string =>
  `${kind} ${region}${afterMs === 0 ? "" : ` after ${(afterMs / 1000).toFixed(1)} s`} for ${(forMs / 1000).toFixed(1)} s`;
