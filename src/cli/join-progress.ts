/** A table whose states are being copied from a peer, or wait to be. */
export interface PendingCopy {
  readonly origin: number;
  readonly table: string;
  readonly done: number;
  /** Null until it is counted. */
  readonly total: number | null;
  readonly misfit: string | null;
}

/** Rows, rate and time left of a copy, from what is seen of coregent.table_sync, whose rows go as tables are done. */
export class CopyProgress {
  readonly #startedMs: number;
  readonly #seen = new Map<string, PendingCopy>();
  #finished = 0;
  #done = 0;
  #total = 0;
  #uncounted = 0;
  #nowMs: number;

  /** Times are monotonic milliseconds. */
  constructor(startedMs: number) {
    this.#startedMs = startedMs;
    this.#nowMs = startedMs;
  }

  get done(): number {
    return this.#done;
  }

  get seconds(): number {
    return (this.#nowMs - this.#startedMs) / 1000;
  }

  see(pending: readonly PendingCopy[], nowMs: number): void {
    this.#nowMs = nowMs;
    const open = pending.filter(({ misfit }) => misfit === null);
    const names = new Set(open.map(name));
    for (const [key, copy] of this.#seen) {
      if (!names.has(key)) {
        this.#finished += copy.total ?? copy.done;
        this.#seen.delete(key);
      }
    }
    for (const copy of open) {
      this.#seen.set(name(copy), copy);
    }
    this.#done = this.#finished + sum(open.map(({ done }) => done));
    this.#total = this.#finished + sum(open.map(({ done, total }) => total ?? done));
    this.#uncounted = open.filter(({ total }) => total === null).length;
  }

  /** `12000 of 50000 states, 8000/s, 5 s left` */
  text(): string {
    const rate = this.seconds > 0 ? this.#done / this.seconds : 0;
    if (this.#uncounted > 0 || rate === 0) {
      return `${this.#done} states, ${Math.round(rate)}/s; ${this.#seen.size} tables to copy`;
    }
    const left = Math.max(0, this.#total - this.#done) / rate;
    return `${this.#done} of ${this.#total} states, ${Math.round(rate)}/s, ${left.toFixed(0)} s left`;
  }
}

const name = ({ origin, table }: PendingCopy): string => `${origin} ${table}`;
const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
