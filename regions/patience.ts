/**
 * How long an observer waits for a master that was asked something before it counts that as failed, and again and again
 * while nothing comes. Whatever comes is progress: a far master takes several round trips to connect to, and each of them
 * may take its time. A master that is dead sends nothing.
 */
export interface Wait {
  /** How much has come from the master on this connection. */
  readonly heard: number;
  readonly heardAtMs: number;
  readonly lateAtMs: number;
  /** The longest that it has taken to say something, as far as is known: a round trip at least. */
  readonly stepMs: number;
}

export interface WaitBounds {
  /** The least patience, and what is waited from one failure to the next. */
  readonly probeTimeoutMs: number;
}

/** What was heard, and when; `atMs` never goes back. */
export interface Look {
  readonly heard: number;
  readonly atMs: number;
}

const roundTrips = 2;
const mostTimeouts = 3;

/** What a master that is so far away may take to say something, in whole ms. */
export const patienceMs = (stepMs: number, { probeTimeoutMs }: WaitBounds): number =>
  Math.min(Math.max(probeTimeoutMs, Math.ceil(roundTrips * stepMs)), mostTimeouts * probeTimeoutMs);

export const beginWait = ({ heard, atMs }: Look, stepMs: number, bounds: WaitBounds): Wait => ({
  heard,
  heardAtMs: atMs,
  lateAtMs: atMs + patienceMs(stepMs, bounds),
  stepMs,
});

/** `late`: as long as it may take has passed with nothing heard, once more. */
export const afterLook = (
  wait: Wait,
  { heard, atMs }: Look,
  bounds: WaitBounds,
): { readonly wait: Wait; readonly late: boolean } => {
  if (heard !== wait.heard) {
    const stepMs = Math.max(wait.stepMs, atMs - wait.heardAtMs);
    return { wait: beginWait({ heard, atMs }, stepMs, bounds), late: false };
  }
  return atMs < wait.lateAtMs
    ? { wait, late: false }
    : { wait: { ...wait, lateAtMs: atMs + bounds.probeTimeoutMs }, late: true };
};
