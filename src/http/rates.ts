const windowMs = 1_000;
const maxCallers = 10_000;
/** Shared by those for whom there is no place. It is no token's name and no address. */
const others = "";

/** How much each caller has asked for within the second that runs; of so many callers at most. */
export class Rates {
  readonly #monotonic: () => number;
  #taken = new Map<string, number>();
  #endsMs = 0;

  /** @param monotonic milliseconds since some moment */
  constructor(monotonic: () => number) {
    this.#monotonic = monotonic;
  }

  /** Counts one more; false: the caller has had `max` already. */
  take(caller: string, max: number): boolean {
    this.#turn();
    const key = this.#taken.has(caller) || this.#taken.size < maxCallers ? caller : others;
    const taken = this.#taken.get(key) ?? 0;
    if (taken >= max) return false;
    this.#taken.set(key, taken + 1);
    return true;
  }

  /** Whether the caller has had `max`. */
  isSpent(caller: string, max: number): boolean {
    this.#turn();
    return (this.#taken.get(caller) ?? 0) >= max;
  }

  #turn(): void {
    const nowMs = this.#monotonic();
    if (nowMs < this.#endsMs) return;
    this.#endsMs = nowMs + windowMs;
    if (this.#taken.size > 0) this.#taken = new Map();
  }
}
