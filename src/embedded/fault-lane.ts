import type { Socket } from "node:net";

/** What one direction of a link is like. Latency delays and does not narrow; bandwidth narrows. */
export interface Conditions {
  readonly latencyMs: number;
  /** Adds up to this much, evenly spread; order is kept. */
  readonly jitterMs: number;
  /** Share of chunks that come late by a retransmission, 0..1, as lost packets do to TCP. */
  readonly loss: number;
  /** null: as fast as the machine. */
  readonly bytesPerSecond: number | null;
}

/** Shared by all connections of one direction of a link, and changed while they live. */
export interface LaneState {
  conditions: Conditions;
  /** Nothing passes; what is under way is held, as by TCP, which sends again until the line heals. */
  blocked: boolean;
  /** Delivered so far. */
  bytes: number;
  /** When the line has sent all that it was given, for the bandwidth. Milliseconds of performance.now(). */
  lineFreeAt: number;
}

type Entry = { readonly at: number } & (
  | { readonly kind: "data"; readonly data: Buffer }
  | { readonly kind: "end" | "reset" }
);

/** Under way in one direction of one connection; beyond, the sender waits. More than 300 ms at 100 MB/s. */
const maxQueuedBytes = 32 * 1024 * 1024;

/** One direction of one connection: a queue that each chunk leaves when its time has come, never before the one ahead. */
export class Lane {
  readonly #source: Socket;
  readonly #sink: Socket;
  readonly #state: LaneState;
  readonly #random: () => number;
  #queue: Entry[] = [];
  #head = 0;
  #queuedBytes = 0;
  #timer: NodeJS.Timeout | null = null;
  #sinkIsFull = false;

  constructor(ends: { source: Socket; sink: Socket }, state: LaneState, random: () => number) {
    this.#source = ends.source;
    this.#sink = ends.sink;
    this.#state = state;
    this.#random = random;
    this.#source.on("data", (data: Buffer) => this.#take(data));
    this.#source.on("end", () => this.#enqueue({ kind: "end", at: this.#arrival(0) }));
    this.#source.on("error", () => this.#enqueue({ kind: "reset", at: this.#arrival(0) }));
    this.#sink.on("drain", () => {
      this.#sinkIsFull = false;
      this.wake();
    });
    this.#sink.on("close", () => this.#discard());
    this.wake();
  }

  /** Looks again after the state has changed. */
  wake(): void {
    this.#deliver();
    const full = this.#state.blocked || this.#queuedBytes >= maxQueuedBytes;
    if (full) this.#source.pause();
    else if (this.#queuedBytes <= maxQueuedBytes / 2) this.#source.resume();
  }

  #take(data: Buffer): void {
    this.#queuedBytes += data.length;
    this.#enqueue({ kind: "data", data, at: this.#arrival(data.length) });
  }

  #arrival(bytes: number): number {
    const { latencyMs, jitterMs, loss, bytesPerSecond } = this.#state.conditions;
    let sentAt = performance.now();
    if (bytesPerSecond !== null) {
      sentAt = Math.max(sentAt, this.#state.lineFreeAt) + (bytes / bytesPerSecond) * 1000;
      this.#state.lineFreeAt = sentAt;
    }
    const jitter = jitterMs > 0 ? this.#random() * jitterMs : 0;
    const late = loss > 0 && this.#random() < loss ? Math.max(200, 2 * latencyMs) : 0;
    return sentAt + latencyMs + jitter + late;
  }

  #enqueue(entry: Entry): void {
    if (this.#sink.destroyed) return;
    this.#queue.push(entry);
    this.wake();
  }

  #deliver(): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    while (!this.#state.blocked && !this.#sinkIsFull) {
      const entry = this.#queue[this.#head];
      if (!entry) break;
      const waitMs = entry.at - performance.now();
      if (waitMs > 0) {
        this.#timer = setTimeout(() => this.wake(), waitMs);
        break;
      }
      this.#head += 1;
      this.#hand(entry);
    }
    // Not at each step: shifting a long array is slow.
    if (this.#head > 1024 || this.#head === this.#queue.length) {
      this.#queue = this.#queue.slice(this.#head);
      this.#head = 0;
    }
  }

  #hand(entry: Entry): void {
    switch (entry.kind) {
      case "data":
        this.#queuedBytes -= entry.data.length;
        this.#state.bytes += entry.data.length;
        this.#sinkIsFull = !this.#sink.write(entry.data);
        break;
      case "end":
        this.#sink.end();
        break;
      case "reset":
        this.#sink.resetAndDestroy();
        break;
    }
  }

  #discard(): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    this.#queue = [];
    this.#head = 0;
    this.#queuedBytes = 0;
  }
}
