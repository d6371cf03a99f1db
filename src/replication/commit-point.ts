import type { Buffer } from "node:buffer";

/** Microseconds from 1970 to 2000, where PostgreSQL's clock starts. */
export const postgresEpoch = 946_684_800_000_000n;

/**
 * Where a transaction's commit record ends, and when it was committed. Every transaction has one and few are looked at, so it
 * is read into the same four numbers again and again: a bigint is an object for the collector.
 */
export class CommitPoint {
  #endHigh = 0;
  #endLow = 0;
  #timeHigh = Number(-postgresEpoch >> 32n);
  #timeLow = Number(-postgresEpoch & 0xffff_ffffn);

  /** The end's LSN, 8 bytes. */
  readEnd(message: Buffer, at: number): void {
    this.#endHigh = message.readUInt32BE(at);
    this.#endLow = message.readUInt32BE(at + 4);
  }

  /** Microseconds since 2000, 8 bytes. */
  readTime(message: Buffer, at: number): void {
    this.#timeHigh = message.readInt32BE(at);
    this.#timeLow = message.readUInt32BE(at + 4);
  }

  copy(from: CommitPoint): void {
    this.#endHigh = from.#endHigh;
    this.#endLow = from.#endLow;
    this.#timeHigh = from.#timeHigh;
    this.#timeLow = from.#timeLow;
  }

  get endLsn(): bigint {
    return joined(this.#endHigh, this.#endLow);
  }

  /** Microseconds since 1970; 0 where none was read. */
  get commitTime(): bigint {
    return joined(this.#timeHigh, this.#timeLow) + postgresEpoch;
  }
}

const joined = (high: number, low: number): bigint => (BigInt(high) << 32n) | BigInt(low);
