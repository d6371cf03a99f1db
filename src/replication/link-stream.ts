import type { Buffer } from "node:buffer";
import type { Logger } from "pino";
import { directLine } from "../postgres/line.ts";
import { publicationName } from "../postgres/install/names.ts";
import { unless } from "../unless.ts";
import { Backlog } from "./backlog.ts";
import type { Batch } from "./batch.ts";
import { Confirmation } from "./confirm.ts";
import { Decoder, StreamedTooSoon } from "./decode.ts";
import { fetchFrom } from "./fetch.ts";
import { Inbox } from "./inbox.ts";
import type { MergeSession } from "./merge-session.ts";
import { inspectSlot, inspectWalsender } from "./slot.ts";
import type { SourceSession } from "./source-session.ts";
import type { SpareMemory } from "./spare-memory.ts";
import type { SpareSession } from "./spare-session.ts";
import type { LinkStatus } from "./status.ts";
import { ReplicationStream } from "./stream.ts";
import type { Sweeper } from "./sweeper.ts";
import type { Target } from "./target.ts";
import { TransactionMerger } from "./transaction-merger.ts";
import { type AgentContext, pause, type RegionAddress } from "./wiring.ts";

const flushPollMs = 100;

export interface Start {
  /** Everything before is merged here. */
  readonly from: bigint;
  /** What the slot says is confirmed. */
  readonly confirmed: bigint;
}

export interface LinkStreamParts {
  readonly context: AgentContext;
  readonly peer: RegionAddress;
  readonly status: LinkStatus;
  readonly sweeper: Sweeper;
  readonly logger: Logger;
  readonly slot: string;
  readonly source: SourceSession;
  readonly session: MergeSession;
  readonly spare: SpareSession;
  readonly memory: SpareMemory;
  readonly target: Target;
  readonly start: Start;
  /** Far behind, large transactions may be merged before the source has decoded all of them. */
  readonly mayStream: boolean;
  /** Ends at once: there is nothing to be drained, or the link begins anew. */
  readonly again: AbortSignal;
  /** Called when changes come from now on. */
  readonly begun: () => void;
  /** Called after each batch. */
  readonly merged: () => void;
}

/**
 * What a link does once nothing is missing: it reads the peer's changes, merges them and confirms what is durable. Two
 * sides that only the inbox joins, so that one receives and decodes while the other has the server merge.
 */
export class LinkStream {
  readonly #parts: LinkStreamParts;
  readonly #confirmation: Confirmation;
  readonly #inbox: Inbox;
  readonly #decoder: Decoder;
  /** What is read from now. */
  #source: { pause(): void; resume(): void; hurry(): void } | null = null;
  #stream: ReplicationStream | null = null;
  /** Rejects where one of the transactions that are streamed has not committed. */
  #streamedCommitted: Promise<unknown> = Promise.resolve();
  /** Batches that are being merged, or whose commit was not answered. */
  readonly #taken: Batch[] = [];
  /** Aborted when nothing more is read. */
  readonly #lost = new AbortController();

  constructor(parts: LinkStreamParts) {
    const { context, peer, target, start, memory } = parts;
    this.#parts = parts;
    // What is merged is not all durable: the last attempt may have ended a moment ago (FAULTS 5).
    this.#confirmation = new Confirmation(start.confirmed);
    this.#inbox = new Inbox(
      { ...context.limits, maxBufferedBytes: context.limits.maxBatchBytes * 3 },
      {
        pause: () => this.#source?.pause(),
        resume: () => this.#source?.resume(),
        hurry: () => this.#source?.hurry(),
      },
      { clock: context.clock, memory },
    );
    this.#decoder = new Decoder(this.#inbox, {
      ...target,
      sourceRegion: peer.id,
      streamed: (xid) => {
        this.#streamedCommitted = Promise.all([this.#streamedCommitted, checkCommitted(parts.source, xid)]);
        // It may go on for long without a row of ours, and what commits meanwhile waits for its end.
        this.#streamedCommitted.catch((error: unknown) => this.#fail(error));
      },
    });
  }

  /** Until `ending`: then it takes no more batches, and drains. @throws whatever ended it */
  async run(ending: AbortSignal): Promise<void> {
    const { status, source, start } = this.#parts;
    const { incarnation } = source.identity;
    const { from } = start;
    Object.assign(status, { mergedLsn: from, recordedLsn: from, confirmedLsn: from, incarnation });
    const merger = this.#merger(ending);
    await merger.noteDurable(from);
    const reading = this.#read().catch((error: unknown) => this.#fail(error));
    const confirming = this.#confirm(merger);
    try {
      await this.#merge(merger, ending);
    } finally {
      // It holds locks, and its turn does not come.
      await merger.withdraw();
      await this.#drain(merger);
      this.#lost.abort();
      await merger[Symbol.asyncDispose]();
      await Promise.all([confirming, reading]);
      await this.#stream?.[Symbol.asyncDispose]();
    }
  }

  /** Far behind, a backlog is read first, and then the stream. */
  async #read(): Promise<void> {
    const { context, peer, source, session, slot, target, start, again, logger } = this.#parts;
    const { limits, clock } = context;
    const ended = AbortSignal.any([source.ended, again, this.#lost.signal]);
    const reading = {
      slot,
      publication: publicationName,
      binary: target.format === "binary",
      ownChangesOnly: session.marksOrigin,
    };
    const backlog = new Backlog({ ...reading, context, peer, client: source.client, logger });
    this.#source = backlog;
    const decode = (bytes: Buffer, at: number, end: number): void => this.#decoder.decode(bytes, at, end);
    const begun = (end: bigint): void => {
      this.#inbox.catchUp(end);
      this.#parts.begun();
    };
    const { from, ahead } = await backlog.read(start, { begun, decode }, ended);
    if (ahead >= limits.maxBatchBytes) this.#inbox.catchUp(from + ahead);
    this.#source = null;
    const stream = await ReplicationStream.open(
      {
        ...reading,
        streamingKb: this.#parts.mayStream && ahead >= limits.streamingBytes ? limits.streamingKb : null,
        url: peer.url,
        line: peer.line ?? directLine,
        applicationName: `coregent stream ${peer.name} > ${context.region.name}`,
        from,
        connectTimeoutMs: limits.connectTimeoutMs,
        silenceTimeoutMs: limits.silenceTimeoutMs,
        clock,
        confirmed: () => this.#confirmation.confirmed,
        unhurried: () => !this.#inbox.awaited,
        inspectWalsender: (pid) => inspectWalsender(source.client, pid),
      },
      {
        message: decode,
        keepalive: (lsn, time) => this.#keepalive(lsn, time),
        ended: (error) => this.#fail(error),
      },
      ended,
    );
    this.#source = stream;
    this.#stream = stream;
    this.#parts.begun();
    this.#inbox.regulate();
  }

  #keepalive(lsn: bigint, time: bigint): void {
    const { status } = this.#parts;
    status.sourceLsn = lsn > status.sourceLsn ? lsn : status.sourceLsn;
    this.#inbox.keepalive(lsn, time);
  }

  #fail(reason: unknown): void {
    const error = reason instanceof Error ? reason : new Error(String(reason));
    this.#inbox.fail(error);
    this.#lost.abort(error);
  }

  #merger(ending: AbortSignal): TransactionMerger {
    const { context, session, spare, sweeper, status, peer, source } = this.#parts;
    return new TransactionMerger({
      context,
      session,
      spare,
      confirmation: this.#confirmation,
      sweeper,
      status,
      origin: peer.id,
      incarnation: source.identity.incarnation,
      fetch: fetchFrom({ client: source.client, pause: (ms) => pause(context.clock, ms, ending) }),
      askPosition: () => {
        // An idle source may have nothing to send for long: a record of our own brings its position past the fetch.
        void source.client
          .query("SELECT pg_logical_emit_message(true, 'coregent', 'position')")
          .then(() => this.#stream?.sendStatus(true))
          .catch(() => undefined);
      },
    });
  }

  async #merge(merger: TransactionMerger, ending: AbortSignal): Promise<never> {
    const { status } = this.#parts;
    for (;;) {
      if (this.#inbox.holdsBack) merger.prepareAhead();
      const batch = await this.#next(merger, ending);
      await unless(ending, this.#streamedCommitted);
      this.#taken.push(batch);
      status.receivedLsn = batch.endLsn > status.receivedLsn ? batch.endLsn : status.receivedLsn;
      this.#notePending();
      const merging = merger.merge(batch, ending);
      setImmediate(() => {
        if (this.#inbox.next !== null) merger.prepare(this.#inbox.next);
      });
      const { committed } = await merging;
      committed.then(
        () => this.#merged(batch),
        (error: unknown) => this.#fail(error),
      );
      if (this.#isCurrent && !this.#inbox.catchingUp) await merger.release();
    }
  }

  #merged(batch: Batch): void {
    const { status, context, merged } = this.#parts;
    merged();
    this.#taken.splice(0, this.#taken.indexOf(batch) + 1);
    this.#notePending();
    if (this.#taken.length === 0 && this.#isCurrent) status.currentAtMs = context.clock.now();
  }

  /** What waits in the inbox is noted when it is taken. */
  #notePending(): void {
    const { status } = this.#parts;
    const oldest = this.#taken.find(({ states }) => states > 0);
    if (oldest !== undefined) status.pendingCommitMs = Number(oldest.commitTime / 1000n);
    else if (this.#taken.length > 0 || this.#isCurrent) status.pendingCommitMs = 0;
  }

  /** Whether nothing has come that is not taken. */
  get #isCurrent(): boolean {
    return this.#stream !== null && this.#inbox.bufferedChanges === 0;
  }

  /** The next batch. While there is none, the position of an idle peer is recorded when it is time. */
  async #next(merger: TransactionMerger, ending: AbortSignal): Promise<Batch> {
    for (;;) {
      const batch = await this.#inbox.take(merger.idleDueMs() ?? Infinity, ending);
      if (batch !== null) return batch;
      await merger.recordIdle();
    }
  }

  /** Tells the peer what has become durable here, soon after it has. */
  async #confirm(merger: TransactionMerger): Promise<void> {
    const confirmation = this.#confirmation;
    const ended = this.#lost.signal;
    let told = confirmation.confirmed;
    while (!ended.aborted) {
      await confirmation.due(told, ended);
      await pause(this.#parts.context.clock, flushPollMs, ended);
      if (confirmation.awaitedTargetLsn !== null) {
        await merger.pollDurable().catch(() => undefined);
      }
      if (this.#stream !== null && confirmation.confirmed > told && !ended.aborted) {
        told = confirmation.confirmed;
        this.#stream.sendStatus();
      }
    }
  }

  /** What is merged is made durable, and the peer knows, as far as that goes within the bound. */
  async #drain(merger: TransactionMerger): Promise<void> {
    const { context, source, again, slot, logger } = this.#parts;
    const { clock, limits } = context;
    const confirmation = this.#confirmation;
    const ended = this.#lost.signal;
    const goesOn = (): boolean => !ended.aborted && !again.aborted;
    // A peer behind a cut line does not answer: then its sessions are ended, and the stream with them.
    const drained = new AbortController();
    const bound = pause(clock, limits.drainMs, drained.signal).then(() =>
      drained.signal.aborted ? undefined : source[Symbol.asyncDispose](),
    );
    try {
      while (confirmation.awaitedTargetLsn !== null && goesOn()) {
        await pause(clock, 20, ended);
        await merger.pollDurable();
      }
      for (let known = -1n; this.#stream !== null && known < confirmation.confirmed && goesOn();) {
        this.#stream.sendStatus();
        await pause(clock, 10, ended);
        known = (await inspectSlot(source.client, slot))?.confirmedLsn ?? confirmation.confirmed;
      }
    } catch (error) {
      logger.debug({ err: error }, "not all that is merged could be confirmed; it will be sent again");
    } finally {
      drained.abort();
      await bound;
    }
  }
}

/**
 * A peer's transaction is merged before its commit has come only if it has been committed: one that is open would hold
 * locks of our local writers for as long as it takes.
 * @throws StreamedTooSoon if it has not
 */
const checkCommitted = async ({ client }: SourceSession, xid: number): Promise<void> => {
  // The stream names it by 32 bits: it is the one nearest to those that are running.
  const { rows } = await client.query<{ status: string | null }>({
    name: "streamed",
    text: `SELECT pg_catalog.pg_xact_status((next + (($1 - next + 2147483648) & 4294967295) - 2147483648)::text::xid8) AS status
             FROM (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next) AS s`,
    values: [xid],
  });
  const status = rows[0]?.status ?? "unknown";
  if (status !== "committed") throw new StreamedTooSoon(`transaction ${xid} of the peer is ${status}`);
};
