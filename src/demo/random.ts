/** A source of chance that gives the same run for the same seed (mulberry32), so that a demo can be repeated. */
export interface Random {
  /** In [0, 1). */
  next(): number;
  /** A whole number from low to high, both included. */
  integer(low: number, high: number): number;
  pick<T>(items: readonly [T, ...T[]]): T;
  /** Normally distributed. */
  normal(mean: number, deviation: number): number;
  chance(probability: number): boolean;
}

export const maxSeed = 0xffff_ffff;

/** Seeds of text and number mix into one 32-bit state: `seeded(42, "moldova")` differs from `seeded(42, "argentina")`. */
export const seeded = (seed: number, stream = ""): Random => {
  let state = seed >>> 0;
  for (const character of stream) {
    state = Math.imul(state ^ (character.codePointAt(0) ?? 0), 0x0100_0193) >>> 0;
  }
  const next = (): number => {
    state = (state + 0x6d2b_79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 0x1_0000_0000;
  };
  const integer = (low: number, high: number): number => low + Math.floor(next() * (high - low + 1));
  return {
    next,
    integer,
    pick: (items) => items[integer(0, items.length - 1)] ?? items[0],
    normal: (mean, deviation) =>
      mean + deviation * Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next()),
    chance: (probability) => next() < probability,
  };
};
