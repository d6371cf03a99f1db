import { setTimeout as sleep } from "node:timers/promises";
import { connect } from "../../src/postgres/client.ts";
import { readTables } from "../../src/postgres/catalog.ts";
import { directLine } from "../../src/postgres/line.ts";
import type { Batch } from "../../src/replication/batch.ts";
import { Decoder, type DecoderOptions } from "../../src/replication/decode.ts";
import { Inbox, type InboxLimits } from "../../src/replication/inbox.ts";
import { SpareMemory } from "../../src/replication/spare-memory.ts";
import { readDomains } from "../../src/replication/relation.ts";
import { ensureSlot, inspectWalsender } from "../../src/replication/slot.ts";
import { ReplicationStream, type StreamOptions } from "../../src/replication/stream.ts";
import { systemClock } from "../../src/clock.ts";
import { uniqueName, type TestDatabase } from "../support/database.ts";
import { takeFrom } from "./inbox-source.ts";

export const limits: InboxLimits = {
  maxBatchRows: 20_000,
  maxBatchBytes: 8 << 20,
  maxBufferedBytes: 32 << 20,
};

export interface ReaderOptions {
  readonly limits?: Partial<InboxLimits>;
  readonly decoder?: Partial<DecoderOptions>;
  readonly stream?: Partial<StreamOptions>;
  readonly slot?: string;
  /** Where the tables of the target are read; the source itself if not given. */
  readonly target?: TestDatabase;
}

/** Stream, decoder and inbox wired as a link wires them. */
export class Reader implements AsyncDisposable {
  readonly inbox: Inbox;
  readonly slot: string;
  readonly errors: Error[] = [];
  readonly keepalives: { lsn: bigint; time: bigint }[] = [];
  stream!: ReplicationStream;
  confirmed = 0n;
  pauses = 0;
  readonly #stack = new AsyncDisposableStack();

  private constructor(slot: string, options: ReaderOptions) {
    this.slot = slot;
    this.inbox = new Inbox(
      { ...limits, ...options.limits },
      {
        pause: () => {
          this.pauses += 1;
          this.stream.pause();
        },
        resume: () => this.stream.resume(),
        hurry: () => this.stream.hurry(),
      },
      { clock: systemClock(), memory: new SpareMemory(2 ** 25) },
    );
  }

  /** Makes the slot, then calls `before` (what it writes will be streamed), then starts the stream. */
  static async open(
    source: TestDatabase,
    options: ReaderOptions = {},
    before: () => Promise<unknown> = async () => undefined,
  ): Promise<Reader> {
    const client = await connect(source.url, { applicationName: "reader" });
    const reader = new Reader(options.slot ?? uniqueName("slot"), options);
    reader.#stack.defer(() => client.end());
    try {
      const slot = await ensureSlot(client, reader.slot);
      reader.confirmed = slot.confirmedLsn;
      await before();
      const format = options.decoder?.format ?? "binary";
      const decoder = new Decoder(reader.inbox, {
        tables: await readTables(options.target === undefined ? client : await options.target.connect()),
        domains: await readDomains(client),
        format,
        sourceRegion: null,
        ...options.decoder,
      });
      reader.stream = await ReplicationStream.open(
        {
          url: source.url,
          line: directLine,
          applicationName: "reader stream",
          slot: reader.slot,
          publication: "coregent",
          from: slot.confirmedLsn,
          binary: format === "binary",
          ownChangesOnly: true,
          connectTimeoutMs: 5_000,
          silenceTimeoutMs: 30_000,
          clock: systemClock(),
          confirmed: () => reader.confirmed,
          unhurried: () => !reader.inbox.awaited,
          inspectWalsender: (pid) => inspectWalsender(client, pid),
          ...options.stream,
        },
        {
          message: (bytes, start) => decoder.decode(bytes, start),
          keepalive: (lsn, time) => {
            reader.keepalives.push({ lsn, time });
            reader.inbox.keepalive(lsn, time);
          },
          ended: (error) => {
            reader.errors.push(error);
            reader.inbox.fail(error);
          },
        },
        AbortSignal.timeout(30_000),
      );
      reader.#stack.use(reader.stream);
      return reader;
    } catch (error) {
      await reader.#stack.disposeAsync();
      throw error;
    }
  }

  async take(timeoutMs = 10_000): Promise<Batch> {
    return takeFrom(this.inbox, AbortSignal.timeout(timeoutMs));
  }

  /** The next batch that holds transactions. */
  async changes(): Promise<Batch> {
    for (;;) {
      const batch = await this.take();
      if (batch.transactions > 0 || !batch.endsTransaction) {
        return batch;
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
    // The server notices the end of a connection a moment later.
    await sleep(0);
  }
}
