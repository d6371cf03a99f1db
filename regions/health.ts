/**
 * How one observer sees one master:
 * - `healthy`: its last probe was good, and it is trusted.
 * - `suspect`: nothing is known yet, or probes have failed of late, but too few to call it down.
 * - `down`: so many probes in a row have failed that its rows are taken over. It stays down until it has answered well
 *   for a while, so that a master which comes and goes is not written to in between.
 */
export type Health = "healthy" | "suspect" | "down";

/** What a probe told, and when; `atMs` never goes back. */
export type Probe =
  | { readonly ok: true; readonly atMs: number }
  /** `reason` for people: "does not answer", "is read-only". */
  | { readonly ok: false; readonly atMs: number; readonly reason: string };

export interface HealthBounds {
  /** Failed probes in a row that make a master down. */
  readonly failuresToDown: number;
  /** Good probes in a row that make it healthy again, */
  readonly successesToUp: number;
  /** of which the first is at least this long ago. */
  readonly calmMs: number;
}

export interface HealthState {
  readonly health: Health;
  /** When it became so. */
  readonly sinceMs: number;
  /** Failed probes in a row. */
  readonly failures: number;
  /** Good probes in a row, and when the first of them came. Counted while it is down. */
  readonly successes: number;
  readonly goodSinceMs: number;
  /** Why the last failed probe failed; null while healthy, and as long as nothing is known. */
  readonly reason: string | null;
}

/** A master that was not probed yet: it may be written to, and nobody takes over from it. */
export const unprobed = (nowMs: number): HealthState => ({
  health: "suspect",
  sinceMs: nowMs,
  failures: 0,
  successes: 0,
  goodSinceMs: nowMs,
  reason: null,
});

export const afterProbe = (state: HealthState, probe: Probe, bounds: HealthBounds): HealthState => {
  const next = probe.ok
    ? afterGoodProbe(state, probe.atMs, bounds)
    : afterFailedProbe(state, probe.reason, bounds);
  return { ...next, sinceMs: next.health === state.health ? state.sinceMs : probe.atMs };
};

const afterGoodProbe = (state: HealthState, atMs: number, bounds: HealthBounds): HealthState => {
  const good: HealthState = { ...state, health: "healthy", failures: 0, successes: 0, reason: null };
  switch (state.health) {
    case "healthy":
    case "suspect":
      return good;
    case "down": {
      const successes = state.successes + 1;
      const goodSinceMs = state.successes === 0 ? atMs : state.goodSinceMs;
      return successes >= bounds.successesToUp && atMs - goodSinceMs >= bounds.calmMs
        ? good
        : { ...state, failures: 0, successes, goodSinceMs };
    }
  }
};

const afterFailedProbe = (state: HealthState, reason: string, bounds: HealthBounds): HealthState => {
  const failures = state.failures + 1;
  const failed = { ...state, failures, successes: 0, reason };
  switch (state.health) {
    case "healthy":
    case "suspect":
      return { ...failed, health: failures >= bounds.failuresToDown ? "down" : "suspect" };
    case "down":
      return failed;
  }
};
