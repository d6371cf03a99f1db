/** What administrators simulate, as values. Nothing here touches a connection: src/outages/ does. */
export type OutageSpec =
  /** The region is cut off from all others, and its agent from its own master. */
  | { readonly kind: "region"; readonly region: string }
  /** Neither reaches the other's master; `oneWay`: what `from` writes does not reach `to`, the other direction works. */
  | { readonly kind: "link"; readonly from: string; readonly to: string; readonly oneWay: boolean }
  /** Every answer between the two takes so much longer, and up to `jitterMs` more. */
  | {
      readonly kind: "latency";
      readonly from: string;
      readonly to: string;
      readonly roundTripMs: number;
      readonly jitterMs: number;
    };

export interface Outage {
  /** The same at every agent that plays a part in it. */
  readonly id: string;
  readonly spec: OutageSpec;
  /** Milliseconds since 1970, by the clock of the agent that tells it. */
  readonly startedAtMs: number;
  /** null: when it is healed. */
  readonly endsAtMs: number | null;
}

/** What a line from an agent to a region's master is like. */
export interface LineCondition {
  /** The outage that cuts it; null: it is not cut. */
  readonly cutBy: string | null;
  /** What is added to each direction. */
  readonly oneWayMs: number;
  readonly jitterMs: number;
}

export const goodLine: LineCondition = { cutBy: null, oneWayMs: 0, jitterMs: 0 };

export const maxLatencyMs = 60_000;

const between = (spec: { readonly from: string; readonly to: string }, a: string, b: string): boolean =>
  (spec.from === a && spec.to === b) || (spec.from === b && spec.to === a);

/** Whether the agent of `here` cannot reach the master of `target`. An agent reads what a peer writes at the peer's master. */
const cuts = (spec: OutageSpec, here: string, target: string): boolean => {
  switch (spec.kind) {
    case "region":
      return spec.region === here || spec.region === target;
    case "link":
      return spec.oneWay ? spec.from === target && spec.to === here : between(spec, here, target);
    case "latency":
      return false;
  }
};

/** The line from the agent of `here` to the master of `target`, under all outages at once: delays add up. */
export const lineCondition = (outages: readonly Outage[], here: string, target: string): LineCondition => {
  let condition = goodLine;
  for (const { id, spec } of outages) {
    if (cuts(spec, here, target)) {
      condition = { ...condition, cutBy: condition.cutBy ?? id };
    } else if (spec.kind === "latency" && between(spec, here, target)) {
      condition = {
        ...condition,
        oneWayMs: condition.oneWayMs + spec.roundTripMs / 2,
        jitterMs: condition.jitterMs + spec.jitterMs,
      };
    }
  }
  return condition;
};

/** The regions whose agents must know of an outage, of all there are. */
export const regionsConcerned = (spec: OutageSpec, all: readonly string[]): readonly string[] =>
  spec.kind === "region" ? all : all.filter((name) => name === spec.from || name === spec.to);

/** What an outage is, in a few words. */
export const describeOutage = (spec: OutageSpec): string => {
  switch (spec.kind) {
    case "region":
      return `region ${spec.region}`;
    case "link":
      return `link ${spec.from} ${spec.oneWay ? "to" : "and"} ${spec.to}`;
    case "latency":
      return `latency ${spec.from} and ${spec.to}: ${spec.roundTripMs} ms${
        spec.jitterMs > 0 ? `, jitter ${spec.jitterMs} ms` : ""
      }`;
  }
};
