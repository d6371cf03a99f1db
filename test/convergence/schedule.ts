import { seeded, type Random } from "../../src/demo/random.ts";

/** What happens in one schedule, decided by its seed alone. Pure. */

interface At {
  /** Milliseconds after the writers have begun. */
  readonly at: number;
}

export type Fault =
  | (At & {
      readonly kind: "cut";
      readonly a: string;
      readonly b: string;
      readonly oneWay: boolean;
      readonly mode: Mode;
      readonly ms: number;
    })
  | (At & { readonly kind: "isolate"; readonly region: string; readonly mode: Mode; readonly ms: number })
  | (At & {
      readonly kind: "slow";
      readonly a: string;
      readonly b: string;
      readonly latencyMs: number;
      readonly loss: number;
      readonly ms: number;
    })
  | (At & {
      readonly kind: "kill agent";
      readonly region: string;
      readonly ms: number;
      /** What the region's clock jumps to while its agent is away; null: it does not. */
      readonly offsetMs: number | null;
    })
  | (At & {
      readonly kind: "kill server" | "kill both";
      readonly region: string;
      readonly ms: number;
    })
  | (At & { readonly kind: "power off"; readonly ms: number })
  | (At & { readonly kind: "stop agent"; readonly region: string; readonly ms: number })
  | (At & { readonly kind: "skew"; readonly region: string; readonly offsetMs: number })
  | (At & {
      readonly kind: "drop slot";
      readonly source: string;
      readonly target: string;
      readonly hitAgent: boolean;
    })
  | (At & { readonly kind: "join"; readonly region: string; readonly hitAgent: boolean });

type Mode = "blackhole" | "reset";

export interface Schedule {
  readonly seed: number;
  /** The fault that it is about; the others come by chance. */
  readonly headline: string;
  readonly faults: readonly Fault[];
  /** How long the writers write, in ms. */
  readonly lengthMs: number;
  /** One region writes a group of so many rows in each of two tables, more than a batch holds; 0: none does. */
  readonly hugeGroup: number;
  /** Keys of each contended table. */
  readonly keys: number;
  /**
   * A region in which nobody writes; null: there is none. Each COMMIT of a local writer makes all merges before it
   * durable too, so only here a crash takes many away.
   */
  readonly quiet: string | null;
}

const regions = ["a", "b", "c"] as const;
export const joining = "d";
const hourMs = 3_600_000;
/** With wal_sender_timeout at 3 s, an agent that is stopped so long has lost its streams. */
const stoppedMs = 6_500;

const two = (random: Random): { readonly a: string; readonly b: string } => {
  const a = random.pick(regions);
  const others = regions.filter((region) => region !== a);
  return { a, b: others[random.integer(0, others.length - 1)] ?? "b" };
};

const mode = (random: Random): Mode => (random.chance(0.6) ? "blackhole" : "reset");
const shortly = (random: Random): number => random.integer(200, 2_500);

const makers = {
  "kill agent": (random) => ({
    kind: "kill agent",
    region: random.pick(regions),
    ms: random.integer(0, 600),
    offsetMs: random.chance(0.15) ? (random.chance(0.5) ? hourMs : -hourMs) : null,
    at: 0,
  }),
  "kill server": (random) => ({
    kind: "kill server",
    region: random.pick(regions),
    ms: random.integer(0, 1_500),
    at: 0,
  }),
  "kill both": (random) => ({
    kind: "kill both",
    region: random.pick(regions),
    ms: random.integer(0, 1_500),
    at: 0,
  }),
  "power off": (random) => ({ kind: "power off", ms: random.integer(0, 800), at: 0 }),
  "one-way cut": (random) => ({
    kind: "cut",
    ...two(random),
    oneWay: true,
    mode: mode(random),
    ms: shortly(random) + 1_000,
    at: 0,
  }),
  cut: (random) => ({
    kind: "cut",
    ...two(random),
    oneWay: false,
    mode: mode(random),
    ms: shortly(random),
    at: 0,
  }),
  isolate: (random) => ({
    kind: "isolate",
    region: random.pick(regions),
    mode: mode(random),
    ms: shortly(random) + 1_500,
    at: 0,
  }),
  slow: (random) => ({
    kind: "slow",
    ...two(random),
    latencyMs: random.integer(20, 150),
    loss: random.chance(0.5) ? 0.01 : 0,
    ms: shortly(random) + 1_000,
    at: 0,
  }),
  "stop agent": (random) => ({ kind: "stop agent", region: random.pick(regions), ms: stoppedMs, at: 0 }),
  skew: (random) => ({
    kind: "skew",
    region: random.pick(regions),
    offsetMs: random.chance(0.5) ? hourMs : -hourMs,
    at: 0,
  }),
  "drop slot": (random) => {
    const { a, b } = two(random);
    return { kind: "drop slot", source: a, target: b, hitAgent: random.chance(0.5), at: 0 };
  },
  join: (random) => ({ kind: "join", region: joining, hitAgent: random.chance(0.5), at: 0 }),
} as const satisfies Record<string, (random: Random) => Fault>;

type Headline = keyof typeof makers;

/** By the seed's remainder, so that as many schedules in a row hold each. The last one needs a cluster of its own. */
const headlines: readonly { readonly about: Headline; readonly times: number }[] = [
  { about: "kill agent", times: 12 },
  { about: "kill server", times: 4 },
  { about: "one-way cut", times: 3 },
  { about: "skew", times: 4 },
  { about: "drop slot", times: 3 },
  { about: "isolate", times: 2 },
  { about: "kill both", times: 4 },
  { about: "stop agent", times: 1 },
  { about: "power off", times: 2 },
  { about: "join", times: 1 },
];

const extras: readonly [Headline, ...Headline[]] = [
  "kill agent",
  "kill agent",
  "kill server",
  "kill both",
  "one-way cut",
  "cut",
  "isolate",
  "slow",
  "skew",
  "drop slot",
];

export const scheduleOf = (seed: number): Schedule => {
  const random = seeded(seed, "schedule");
  const { about, times } = headlines[seed % headlines.length] ?? { about: "cut", times: 1 };
  const crashes = about === "kill server" || about === "kill both";
  const quiet = random.chance(crashes ? 0.6 : 0.2) ? random.pick(regions) : null;
  const lengthMs = about === "stop agent" ? 11_000 : random.integer(7_000, 10_000);
  const kinds = [
    ...Array.from({ length: times }, () => about),
    ...Array.from({ length: random.integer(1, 4) }, () => random.pick(extras)),
  ];
  const faults = kinds.map((kind): Fault => {
    // So that it has passed before the writers end, and something is written to be in its way.
    const latest =
      kind === "stop agent" ? lengthMs - stoppedMs - 1_000 : kind === "join" ? 3_000 : lengthMs - 1_000;
    const fault: Fault = { ...makers[kind](random), at: random.integer(500, latest) };
    const crash = fault.kind === "kill server" || fault.kind === "kill both";
    return crash && quiet !== null ? { ...fault, region: quiet } : fault;
  });
  return {
    seed,
    headline: about,
    lengthMs,
    faults: faults.sort((x, y) => x.at - y.at),
    hugeGroup: random.chance(0.2) ? 11_000 : 0,
    keys: random.integer(3, 10),
    quiet,
  };
};

export const describeFault = ({ at, kind, ...rest }: Fault): string =>
  `${(at / 1000).toFixed(2)} s ${kind} ${Object.entries(rest)
    .map(([name, value]) => `${name}=${String(value)}`)
    .join(" ")}`;
