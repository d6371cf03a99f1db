/** A master's clock as one observer reads it. */
export interface ClockReading {
  readonly region: string;
  /** Its clock minus the observer's, in milliseconds, give or take `uncertaintyMs`. */
  readonly skewMs: number;
  readonly uncertaintyMs: number;
}

/** `warn`: it should be looked at. `fence`: writes stamped by it would outrank, or lose to, all others for hours. */
export type ClockVerdict = "fine" | "warn" | "fence";

export interface ClockBounds {
  readonly warnSkewMs: number;
  readonly fenceSkewMs: number;
}

export interface JudgedClock {
  readonly region: string;
  readonly verdict: ClockVerdict;
  /** How far it is from what the others agree upon, ahead positive. */
  readonly apartMs: number;
}

/**
 * Which clocks are odd: each is held against the median of the others. Where only two masters can be read, the observer's
 * own clock is the third witness; of one alone nothing can be said. Between two medians there is room: who lies there is
 * not odd.
 */
export const judgeClocks = (
  readings: readonly ClockReading[],
  { warnSkewMs, fenceSkewMs }: ClockBounds,
): readonly JudgedClock[] =>
  readings.map((reading) => {
    const others = readings.filter(({ region }) => region !== reading.region).map(({ skewMs }) => skewMs);
    const witnesses = others.length === 1 ? [...others, 0] : others;
    const apartMs = witnesses.length === 0 ? 0 : apart(reading.skewMs, witnesses);
    const certainMs = Math.max(0, Math.abs(apartMs) - reading.uncertaintyMs);
    const verdict = certainMs > fenceSkewMs ? "fence" : certainMs > warnSkewMs ? "warn" : "fine";
    return { region: reading.region, verdict, apartMs };
  });

const apart = (skewMs: number, witnesses: readonly number[]): number => {
  const sorted = witnesses.toSorted((a, b) => a - b);
  const low = sorted[Math.floor((sorted.length - 1) / 2)] ?? 0;
  const high = sorted[Math.ceil((sorted.length - 1) / 2)] ?? 0;
  if (skewMs < low) {
    return skewMs - low;
  }
  return skewMs > high ? skewMs - high : 0;
};
