import { Buffer } from "node:buffer";

const leastBytes = 65_536;

/**
 * Memory that is used again. Large pieces that come and go are slow to get, and since they lie outside of V8's heap, V8
 * collects the whole heap whenever they have grown by some 30 MB.
 */
export class SpareMemory {
  readonly #limits: { readonly count: number; readonly bytes: number };
  #spare: Buffer[] = [];

  /** Keeps at most so many pieces, of at most so many bytes. */
  constructor(limits: { readonly count: number; readonly bytes: number }) {
    this.#limits = limits;
  }

  /** At least so many bytes, with anything in them. Sizes are powers of two, so that what was given fits the next. */
  take(bytes: number): Buffer {
    if (bytes < leastBytes) return Buffer.allocUnsafe(bytes);
    let best = -1;
    for (const [at, { length }] of this.#spare.entries()) {
      if (length >= bytes && (best < 0 || length < this.#spare[best]!.length)) best = at;
    }
    return best < 0
      ? Buffer.allocUnsafeSlow(2 ** Math.ceil(Math.log2(bytes)))
      : this.#spare.splice(best, 1)[0]!;
  }

  /** Nobody reads it any more. */
  give(memory: Buffer): void {
    const { count, bytes } = this.#limits;
    if (memory.length < leastBytes || memory.length > bytes) return;
    this.#spare.push(memory);
    // What was given last has the size that is needed now.
    if (this.#spare.length > count) this.#spare.shift();
  }

  /** Nothing is needed soon. */
  clear(): void {
    this.#spare = [];
  }
}
