/** Called at the end of each message. `body`: of the types that are kept, unless it is too long to be; only for the call. */
export type OnMessage = (type: number, body: Buffer | null) => void;

const headerBytes = 5;
const maxKeptBytes = 8_192;

/**
 * Follows one direction of a session from message to message, without holding the bytes: a type, a length, and so many
 * bytes to skip. Only what is needed to know where a message ends, and the bodies of a few short ones.
 */
export class Framer {
  readonly #onMessage: OnMessage;
  readonly #kept: readonly number[];
  readonly #header = Buffer.alloc(headerBytes);
  #headerFilled = 0;
  #type = 0;
  /** Bytes of the body still to come. */
  #left = 0;
  #body: Buffer | null = null;
  #bodyFilled = 0;
  #broken = false;

  constructor(kept: readonly number[], onMessage: OnMessage) {
    this.#kept = kept;
    this.#onMessage = onMessage;
  }

  /** All that came so far are whole messages. */
  get atBoundary(): boolean {
    return !this.#broken && this.#left === 0 && this.#headerFilled === 0;
  }

  push(chunk: Buffer): void {
    let at = this.atBoundary ? this.#passWhole(chunk) : 0;
    while (at < chunk.length && !this.#broken) {
      at += this.#left > 0 ? this.#skip(chunk, at) : this.#readHeader(chunk, at);
    }
  }

  /** The whole messages that it begins with, which are all of it nearly always. @returns where they end */
  #passWhole(chunk: Buffer): number {
    let at = 0;
    while (chunk.length - at >= headerBytes) {
      const type = chunk[at] ?? 0;
      const body = at + headerBytes;
      const end = at + 1 + chunk.readInt32BE(at + 1);
      if (end < body || end > chunk.length) break;
      this.#onMessage(type, this.#keeps(type, end - body) ? chunk.subarray(body, end) : null);
      at = end;
    }
    return at;
  }

  #keeps(type: number, bytes: number): boolean {
    return this.#kept.includes(type) && bytes <= maxKeptBytes;
  }

  #skip(chunk: Buffer, at: number): number {
    const taken = Math.min(this.#left, chunk.length - at);
    if (this.#body !== null) {
      this.#bodyFilled += chunk.copy(this.#body, this.#bodyFilled, at, at + taken);
    }
    this.#left -= taken;
    if (this.#left === 0) {
      this.#end();
    }
    return taken;
  }

  #readHeader(chunk: Buffer, at: number): number {
    if (this.#headerFilled === 0 && chunk.length - at >= headerBytes) {
      this.#begin(chunk[at] ?? 0, chunk.readInt32BE(at + 1));
      return headerBytes;
    }
    const taken = chunk.copy(this.#header, this.#headerFilled, at, at + headerBytes - this.#headerFilled);
    this.#headerFilled += taken;
    if (this.#headerFilled === headerBytes) {
      this.#headerFilled = 0;
      this.#begin(this.#header[0] ?? 0, this.#header.readInt32BE(1));
    }
    return taken;
  }

  #begin(type: number, length: number): void {
    if (length < 4) {
      this.#broken = true;
      return;
    }
    this.#type = type;
    this.#left = length - 4;
    if (this.#keeps(type, this.#left)) {
      this.#body = Buffer.alloc(this.#left);
      this.#bodyFilled = 0;
    }
    if (this.#left === 0) {
      this.#end();
    }
  }

  #end(): void {
    const body = this.#body;
    this.#body = null;
    this.#onMessage(this.#type, body);
  }
}
