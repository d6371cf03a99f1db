import { Buffer } from "node:buffer";

const leastBytes = 65_536;
/** What is so many times as large as needed is left for others. */
const mostTimes = 8;
/** Nobody has asked for any of it for so long: nothing is needed soon. */
const keptMs = 60_000;

/**
 * Memory that is used again, by any link of an agent: who gives some neither reads it any more nor has a write of it pending.
 * Large pieces that come and go are slow to get, and since they lie outside of V8's heap, V8 collects the whole heap
 * whenever they have grown by some 30 MB.
 */
export class SpareMemory {
  readonly #mostBytes: number;
  #spare: Buffer[] = [];
  /** Since it was last seen to. */
  #asked = false;
  #quietSinceMs = Number.NEGATIVE_INFINITY;

  /** Keeps at most so many bytes. */
  constructor(mostBytes: number) {
    this.#mostBytes = mostBytes;
  }

  /** At least so many bytes, with anything in them. New ones are of round sizes, so that what was given fits the next. */
  take(bytes: number): Buffer {
    if (bytes < leastBytes) return Buffer.allocUnsafe(bytes);
    this.#asked = true;
    let best = -1;
    for (const [at, { length }] of this.#spare.entries()) {
      const fits = length >= bytes && length <= bytes * mostTimes;
      if (fits && (best < 0 || length < this.#spare[best]!.length)) best = at;
    }
    return best < 0 ? Buffer.allocUnsafeSlow(rounded(bytes)) : this.#spare.splice(best, 1)[0]!;
  }

  /** Nobody reads it any more. */
  give(memory: Buffer): void {
    if (memory.length < leastBytes || memory.length > this.#mostBytes / 2) return;
    this.#spare.push(memory);
    // What was given last has the size that is needed now.
    let held = this.#spare.reduce((sum, { length }) => sum + length, 0);
    while (held > this.#mostBytes) held -= this.#spare.shift()!.length;
  }

  /** To be called now and then: what nobody asks for is given up. `nowMs`: of a clock that only goes on. */
  tidy(nowMs: number): void {
    if (this.#asked) {
      this.#asked = false;
      this.#quietSinceMs = nowMs;
    } else if (nowMs - this.#quietSinceMs >= keptMs) this.#spare = [];
  }
}

/** Upwards, by a quarter of a power of two. */
const rounded = (bytes: number): number => {
  const step = 2 ** (Math.floor(Math.log2(bytes)) - 2);
  return Math.ceil(bytes / step) * step;
};
