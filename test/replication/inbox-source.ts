import { Buffer } from "node:buffer";
import type { Batch } from "../../src/replication/batch.ts";
import { Decoder } from "../../src/replication/decode.ts";
import { Inbox, type InboxLimits } from "../../src/replication/inbox.ts";
import { SpareMemory } from "../../src/replication/spare-memory.ts";
import type { StateSet } from "../../src/replication/states.ts";
import { HandClock } from "../support/hand-clock.ts";
import { begin, commit, describeTable, insert, int64, sampleTable, update } from "./pgoutput.ts";

const table = sampleTable();
const wide: InboxLimits = { maxBatchRows: 1000, maxBatchBytes: 1 << 20, maxBufferedBytes: 4 << 20 };

/** The next batch, however long that takes. */
export const takeFrom = async (inbox: Inbox, signal: AbortSignal): Promise<Batch> => {
  const batch = await inbox.take(Infinity, signal);
  if (batch === null) throw new Error("the inbox gave up");
  return batch;
};

/** A source's stream into an inbox. */
export class Source {
  readonly flow = {
    paused: false,
    hurried: 0,
    pause: () => void (this.flow.paused = true),
    hurry: () => void (this.flow.hurried += 1),
    resume: () => void (this.flow.paused = false),
  };
  /** Goes on by hand. */
  readonly time = new HandClock();
  readonly inbox: Inbox;
  readonly #decoder: Decoder;
  #lsn = 0n;

  constructor(limits: Partial<InboxLimits> = {}) {
    this.inbox = new Inbox({ ...wide, ...limits }, this.flow, {
      clock: this.time.clock,
      memory: new SpareMemory(2 ** 25),
    });
    this.#decoder = new Decoder(this.inbox, {
      tables: [table],
      domains: new Map(),
      format: "binary",
      sourceRegion: null,
    });
    this.#send(...describeTable(table));
  }

  begin(): void {
    this.#send(begin(this.#lsn, 1_700_000_000_000_000n + this.#lsn));
  }

  change(change: Change): void {
    const { key, version, prev, base, big } = change;
    const state = [int64(base), int64(version), int64(prev), null];
    if (change.kind === "tombstone") {
      this.#send(insert(2, [Buffer.from(key), ...state]));
    } else {
      this.#send(
        update(1, [
          Buffer.from(key),
          big === undefined ? undefined : Buffer.from(big),
          Buffer.from("o"),
          ...state,
        ]),
      );
    }
  }

  commit(): bigint {
    this.#lsn += 100n;
    this.#send(commit(this.#lsn));
    return this.#lsn;
  }

  take(signal: AbortSignal): Promise<Batch> {
    return takeFrom(this.inbox, signal);
  }

  transaction(...changes: Change[]): bigint {
    this.begin();
    changes.forEach((change) => this.change(change));
    return this.commit();
  }

  /** As the driver does: the memory of a message is overwritten afterwards. */
  #send(...messages: Buffer[]): void {
    for (const message of messages) {
      this.#decoder.decode(message);
      message.fill(0xee);
    }
  }
}

export interface Change {
  readonly kind: "row" | "tombstone";
  readonly key: string;
  readonly version: bigint;
  readonly prev: bigint;
  readonly base: bigint;
  /** Undefined: unchanged, and not in the WAL. */
  readonly big: string | undefined;
}

export const row = (key: string, version: bigint, more: Partial<Change> = {}): Change => ({
  kind: "row",
  key,
  version,
  prev: 0n,
  base: 0n,
  big: `${key}@${version}`,
  ...more,
});

export const tombstone = (key: string, version: bigint, more: Partial<Change> = {}): Change => ({
  ...row(key, version, more),
  kind: "tombstone",
});

export const soon = (ms = 1_000): AbortSignal => AbortSignal.timeout(ms);

const describeSet = (set: StateSet): string[] =>
  Array.from({ length: set.count }, (_, i) => {
    const key = set.field(i, "id")!.toString();
    const text = `${set.kind} ${key} ${set.base(i)}/${set.version(i)}`;
    if (set.kind === "tombstone") {
      return text;
    }
    return set.unchanged.length > 0
      ? `${text} since ${set.unchangedSince(i)}`
      : `${text} ${set.field(i, "big")?.toString()}`;
  });

export const contents = (batch: Batch): string[] =>
  batch.tables.flatMap((part) => [part.rows, ...part.partial, part.tombstones]).flatMap(describeSet);
