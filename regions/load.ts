/**
 * Whether one master has more to do than it can, as one observer sees it:
 * - `normal`: it gets all that is meant for it.
 * - `passedOver`: it is overextended and gets nothing; what is meant for it goes to the next.
 * - `returning`: it has been calm for a while and gets a share, which doubles every second until it is whole.
 */
export type LoadPhase = "normal" | "passedOver" | "returning";

export interface LoadBounds {
  /** Requests that may wait for the master; from half of them on it is overextended. */
  readonly maxQueue: number;
  /** It is overextended when its latency is so many times its usual, but never below `minLatencyMs`. */
  readonly latencyFactor: number;
  readonly minLatencyMs: number;
}

export interface LoadState {
  readonly phase: LoadPhase;
  /** When the phase began; in `passedOver`, when it was last seen overextended. */
  readonly sinceMs: number;
  /** Of what is meant for the master, the part that it gets: 0 to 1. A request goes to it if its chance is lower. */
  readonly share: number;
  /** How often in a row it came back in vain: each time it rests twice as long. */
  readonly relapses: number;
  /** Moving averages of its latency: over the last few measurements, and its usual. 0 before the first. */
  readonly recentMs: number;
  readonly usualMs: number;
  readonly measurements: number;
  /** Why it is passed over, for people. */
  readonly reason: string | null;
}

/** What waits for the master now. */
export interface Demand {
  readonly queued: number;
  /** How long the request that came first has been waiting; 0 if none is. */
  readonly longestWaitMs: number;
  /** Of this look; never goes back. */
  readonly atMs: number;
}

const recentWeight = 0.2;
const usualWeight = 0.005;
/** Before so many measurements, nothing is usual. */
const minMeasurements = 20;
/** One measurement counts for no more than so many times the bound: a single slow answer is not a slow master. */
const maxOutlier = 2.5;

const firstRestMs = 1_000;
const maxRelapses = 5;
const firstShare = 0.1;
const doublingMs = 1_000;

export const idleLoad = (nowMs: number): LoadState => ({
  phase: "normal",
  sinceMs: nowMs,
  share: 1,
  relapses: 0,
  recentMs: 0,
  usualMs: 0,
  measurements: 0,
  reason: null,
});

const latencyBoundMs = (state: LoadState, bounds: LoadBounds): number =>
  state.measurements < minMeasurements
    ? Infinity
    : Math.max(bounds.minLatencyMs, bounds.latencyFactor * state.usualMs);

/**
 * With one more latency, of work that is always the same (a probe, the wait for BEGIN's answer): that of whole requests
 * would tell of the requests instead of the master.
 */
export const withLatency = (state: LoadState, latencyMs: number, bounds: LoadBounds): LoadState => {
  const counted = Math.min(latencyMs, maxOutlier * latencyBoundMs(state, bounds));
  const measurements = state.measurements + 1;
  const average = (old: number, weight: number): number => old + (counted - old) * weight;
  const share = 1 / measurements;
  // What it takes while it is overextended is hardly its usual; but a line may have become longer for good.
  const learnt = state.phase === "passedOver" ? usualWeight : Math.max(usualWeight, share);
  return {
    ...state,
    measurements,
    recentMs: average(state.recentMs, Math.max(recentWeight, share)),
    usualMs: average(state.usualMs, learnt),
  };
};

/** Why the master is overextended, or null. */
const overextension = (state: LoadState, demand: Demand, bounds: LoadBounds): string | null => {
  if (demand.queued >= Math.max(1, bounds.maxQueue / 2)) {
    return `${demand.queued} requests wait for it`;
  }
  const bound = latencyBoundMs(state, bounds);
  const latency = Math.max(state.recentMs, demand.longestWaitMs);
  return latency > bound
    ? `it takes ${Math.round(latency)} ms, usually ${Math.round(state.usualMs)} ms`
    : null;
};

/** The state after a look at what waits. */
export const afterDemand = (state: LoadState, demand: Demand, bounds: LoadBounds): LoadState => {
  const nowMs = demand.atMs;
  const reason = overextension(state, demand, bounds);
  switch (state.phase) {
    case "normal":
      return reason === null
        ? { ...state, relapses: forgiven(state, nowMs) }
        : passedOver(state, reason, nowMs);
    case "passedOver":
      if (reason !== null) {
        return { ...state, sinceMs: nowMs, reason };
      }
      return nowMs - state.sinceMs < restMs(state)
        ? state
        : { ...state, phase: "returning", sinceMs: nowMs, share: firstShare, reason: null };
    case "returning": {
      if (reason !== null) {
        return passedOver({ ...state, relapses: Math.min(maxRelapses, state.relapses + 1) }, reason, nowMs);
      }
      const share = firstShare * 2 ** ((nowMs - state.sinceMs) / doublingMs);
      return share < 1 ? { ...state, share } : { ...state, phase: "normal", sinceMs: nowMs, share: 1 };
    }
  }
};

const restMs = ({ relapses }: LoadState): number => firstRestMs * 2 ** relapses;

const passedOver = (state: LoadState, reason: string, nowMs: number): LoadState => ({
  ...state,
  phase: "passedOver",
  sinceMs: nowMs,
  share: 0,
  reason,
});

/** A master that was well for as long as its longest rest begins anew. */
const forgiven = (state: LoadState, nowMs: number): number =>
  nowMs - state.sinceMs > firstRestMs * 2 ** maxRelapses ? 0 : state.relapses;
