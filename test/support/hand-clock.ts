import { setImmediate } from "node:timers/promises";
import { type Clock, napBy, systemClock } from "../../src/clock.ts";

/** The machine's clock, but durations and naps go on only by hand: for what must be timed exactly, over lines that are real. */
export class HandClock {
  #nowMs = 0;
  readonly #naps = new Map<() => void, number>();
  readonly clock: Clock = {
    ...systemClock(),
    monotonic: () => this.#nowMs,
    nap: () =>
      napBy((end, ms) => {
        this.#naps.set(end, this.#nowMs + ms);
        return () => this.#naps.delete(end);
      }),
  };

  get nowMs(): number {
    return this.#nowMs;
  }

  /** Whole ms, one after the other; what is due in each is done before the next, but for what it asks others. */
  async goOn(ms: number): Promise<void> {
    for (let i = 0; i < ms; i += 1) {
      this.#nowMs += 1;
      for (const [end, atMs] of this.#naps) if (atMs <= this.#nowMs) end();
      await setImmediate();
    }
  }
}
