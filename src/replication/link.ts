import type { Logger } from "pino";
import { clusterSlug } from "../../regions/topology.ts";
import { type Backoff, createBackoff } from "../clock.ts";
import { originName, publicationName, slotName } from "../postgres/install/names.ts";
import { directLine } from "../postgres/line.ts";
import { type Reaction, reactionTo } from "../postgres/sqlstate.ts";
import type { Batch } from "./batch.ts";
import { Confirmation } from "./confirm.ts";
import { judgeContinuity } from "./continuity.ts";
import { copyPending } from "./copy.ts";
import { Decoder } from "./decode.ts";
import { fetchFrom } from "./fetch.ts";
import { Inbox } from "./inbox.ts";
import { MergeSession } from "./merge-session.ts";
import { markForCopy, readProgress } from "./progress.ts";
import { dropSlot, ensureSlot, evictHolder, inspectSlot, inspectWalsender, type Slot } from "./slot.ts";
import { SourceSession, WrongPeer } from "./source-session.ts";
import type { LinkState, LinkStatus } from "./status.ts";
import { ReplicationStream } from "./stream.ts";
import type { Sweeper } from "./sweeper.ts";
import { readTarget, type Target } from "./target.ts";
import { TransactionMerger } from "./transaction-merger.ts";
import { type AgentContext, pause, type RegionAddress } from "./wiring.ts";

/** An error that a person must settle is tried again so seldom. */
const stoppedRetryMs = 15_000;
const flushPollMs = 100;

export interface LinkParts {
  readonly peer: RegionAddress;
  readonly status: LinkStatus;
  readonly sweeper: Sweeper;
}

/**
 * One peer's stream into this region's master:
 *
 *     stream -> decode -> collect (Inbox) -> merge (TransactionMerger) -> confirm (Confirmation)
 *
 * A link lives in attempts. Each connects, makes sure that nothing is missing between what is merged here and what the
 * peer's slot still has (else the peer's states are copied first), streams until something fails, and ends.
 * What follows depends on the error's class alone (sqlstate.ts): retry and resync come back after a backoff, and stop after
 * a longer one, since a person has to act first.
 */
export class Link {
  readonly #context: AgentContext;
  readonly #parts: LinkParts;
  readonly #logger: Logger;
  readonly #backoff: Backoff;
  /** Ends the present attempt, so that the next one looks at coregent.table_sync. */
  #again = new AbortController();

  constructor(context: AgentContext, parts: LinkParts) {
    this.#context = context;
    this.#parts = parts;
    this.#logger = context.logger.child({ peer: parts.peer.name });
    const { minBackoffMs, maxBackoffMs } = context.limits;
    this.#backoff = createBackoff({ firstMs: minBackoffMs, maxMs: maxBackoffMs }, context.random);
  }

  /** A table's states are to be copied. No effect while the link is not streaming: it looks by itself then. */
  copyWanted(): void {
    if (this.#parts.status.state === "streaming") {
      this.#again.abort(new CopyWanted());
    }
  }

  /** Until the signal is aborted; then it drains. Never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      this.#again = new AbortController();
      try {
        await this.#attempt(signal);
      } catch (error) {
        if (!signal.aborted && !(error instanceof CopyWanted)) {
          await pause(this.#context.clock, this.#react(error), signal);
        }
      }
    }
    this.#enter("stopped");
  }

  async #attempt(signal: AbortSignal): Promise<void> {
    this.#enter("connecting");
    const context = this.#context;
    const { peer } = this.#parts;
    const slug = clusterSlug(context.cluster);
    await using source = await SourceSession.open(peer, context, signal);
    WrongPeer.check(source.identity, peer, context.cluster);
    const ending = AbortSignal.any([signal, source.ended, this.#again.signal]);
    // While it streams, a link that is to end drains first; before, it has nothing that must be waited for.
    const cutShort = (): void => {
      if (this.#parts.status.state !== "streaming") {
        void source[Symbol.asyncDispose]();
      }
    };
    ending.addEventListener("abort", cutShort, { once: true });
    // From now on a peer that falls silent is noticed, whatever is asked of it.
    const watching = source.watch(this.#parts.status, context, ending);
    await using session = await MergeSession.open(context.region.url, {
      applicationName: `coregent link ${peer.name} > ${context.region.name}`,
      origin: originName(slug, peer.id),
      connectTimeoutMs: context.limits.connectTimeoutMs,
      line: context.region.line,
    });
    const target = await readTarget(session, source);
    try {
      const start = await this.#closeGap(source, session);
      await copyPending(
        {
          context,
          peer,
          status: this.#parts.status,
          source,
          session,
          target,
          sweeper: this.#parts.sweeper,
          enter: () => this.#enter("resyncing"),
        },
        ending,
      );
      await this.#stream({ source, session, target, start, ending });
    } finally {
      this.#again.abort();
      await source[Symbol.asyncDispose]();
      await watching;
    }
  }

  /** Where to stream from. If changes are missing before, all tables are marked to be copied from the peer. */
  async #closeGap(source: SourceSession, session: MergeSession): Promise<Start> {
    const { peer, status } = this.#parts;
    const { incarnation } = source.identity;
    const usable = await this.#usableSlot(source);
    const progress = await readProgress(session, peer.id);
    const judged = judgeContinuity(progress, usable, incarnation);
    if (judged.kind === "resync") {
      if (progress !== null) {
        status.resyncs += 1;
      }
      this.#logger[progress === null ? "info" : "error"](
        { reason: judged.reason },
        "the peer's states will be copied",
      );
      await markForCopy(session, { origin: peer.id, incarnation, lsn: judged.from, commitTime: 0n }, judged);
    }
    return { from: judged.from, confirmed: usable.confirmedLsn };
  }

  /** This region's slot at the peer, with nobody reading from it. */
  async #usableSlot({ client }: SourceSession): Promise<Slot & { readonly created: boolean }> {
    const name = this.#slot;
    const { clock } = this.#context;
    const found = await inspectSlot(client, name);
    if (found !== null && found.lost === null && found.activePid === null) {
      return { ...found, created: false };
    }
    if (found !== null && found.lost !== null) {
      this.#logger.error(
        { slot: name, reason: found.lost },
        "the peer has given up this region's slot; it is made anew",
      );
      await dropSlot(client, name, clock);
    }
    await evictHolder(client, name, clock);
    return await ensureSlot(client, name);
  }

  async #stream(parts: StreamParts): Promise<void> {
    const context = this.#context;
    const slot = this.#slot;
    const { peer, status, sweeper } = this.#parts;
    const { source, session, target, start, ending } = parts;
    const { from } = start;
    const { limits, clock } = context;
    // What is merged is not all durable: the last attempt may have ended a moment ago (FAULTS 5).
    const confirmation = new Confirmation(start.confirmed);
    let stream: ReplicationStream | null = null;
    const inbox = new Inbox(
      { ...limits, maxBufferedBytes: limits.maxBatchBytes * 3 },
      { pause: () => stream?.pause(), resume: () => stream?.resume(), hurry: () => stream?.hurry() },
    );
    const decoder = new Decoder(inbox, { ...target, sourceRegion: peer.id });
    const lost = new AbortController();
    await using opened = await ReplicationStream.open(
      {
        url: peer.url,
        line: peer.line ?? directLine,
        applicationName: `coregent stream ${peer.name} > ${context.region.name}`,
        slot,
        publication: publicationName,
        from,
        binary: target.format === "binary",
        ownChangesOnly: session.marksOrigin,
        connectTimeoutMs: limits.connectTimeoutMs,
        silenceTimeoutMs: limits.silenceTimeoutMs,
        clock,
        confirmed: () => confirmation.confirmed,
        unhurried: () => !inbox.awaited,
        inspectWalsender: (pid) => inspectWalsender(source.client, pid),
      },
      {
        message: (bytes, start) => decoder.decode(bytes, start),
        keepalive: (lsn, time) => {
          status.sourceLsn = lsn > status.sourceLsn ? lsn : status.sourceLsn;
          inbox.keepalive(lsn, time);
        },
        ended: (error) => {
          inbox.fail(error);
          lost.abort(error);
        },
      },
      AbortSignal.any([source.ended, this.#again.signal]),
    );
    stream = opened;
    const { incarnation } = source.identity;
    Object.assign(status, { mergedLsn: from, recordedLsn: from, confirmedLsn: from, incarnation });
    this.#enter("streaming");
    const merger = new TransactionMerger({
      context,
      session,
      confirmation,
      sweeper,
      status,
      origin: peer.id,
      incarnation,
      fetch: fetchFrom({ client: source.client, pause: (ms) => pause(clock, ms, ending) }),
      askPosition: () => {
        // An idle source may have nothing to send for long: a record of our own brings its position past the fetch.
        void source.client
          .query("SELECT pg_logical_emit_message(true, 'coregent', 'position')")
          .then(() => opened.sendStatus(true))
          .catch(() => undefined);
      },
    });
    await merger.noteDurable(from);
    const confirming = this.#confirm(merger, confirmation, { stream: opened, ended: lost.signal });
    try {
      for (;;) {
        const batch = await this.#next(inbox, merger, ending);
        status.receivedLsn = batch.endLsn > status.receivedLsn ? batch.endLsn : status.receivedLsn;
        status.pendingCommitMs = batch.states > 0 ? Number(batch.commitTime / 1000n) : 0;
        await merger.merge(batch, ending);
        this.#backoff.reset();
        if (inbox.bufferedChanges === 0) {
          status.pendingCommitMs = 0;
          status.currentAtMs = context.clock.now();
        }
      }
    } finally {
      await this.#drain(merger, confirmation, { stream: opened, source });
      lost.abort();
      await confirming;
    }
  }

  /** The next batch. While there is none, the position of an idle peer is recorded when it is time. */
  async #next(inbox: Inbox, merger: TransactionMerger, ending: AbortSignal): Promise<Batch> {
    for (;;) {
      const dueMs = merger.idleDueMs();
      if (dueMs === null) {
        return await inbox.take(ending);
      }
      const due = new AbortController();
      const taken = new AbortController();
      void pause(this.#context.clock, dueMs, taken.signal).then(() => due.abort());
      try {
        return await inbox.take(AbortSignal.any([ending, due.signal]));
      } catch (error) {
        if (!due.signal.aborted || ending.aborted) {
          throw error;
        }
      } finally {
        taken.abort();
      }
      await merger.recordIdle();
    }
  }

  /** Tells the peer what has become durable here, soon after it has. */
  async #confirm(
    merger: TransactionMerger,
    confirmation: Confirmation,
    { stream, ended }: { stream: ReplicationStream; ended: AbortSignal },
  ): Promise<void> {
    let told = confirmation.confirmed;
    while (!ended.aborted) {
      await pause(this.#context.clock, flushPollMs, ended);
      if (confirmation.awaitedTargetLsn !== null) {
        await merger.pollDurable().catch(() => undefined);
      }
      if (confirmation.confirmed > told && !ended.aborted) {
        told = confirmation.confirmed;
        stream.sendStatus();
      }
    }
  }

  /** What is merged is made durable, and the peer knows, as far as that goes within the bound. */
  async #drain(
    merger: TransactionMerger,
    confirmation: Confirmation,
    { stream, source }: { stream: ReplicationStream; source: SourceSession },
  ): Promise<void> {
    const { clock, limits } = this.#context;
    const goesOn = (): boolean => !stream.ended.aborted && !this.#again.signal.aborted;
    // A peer behind a cut line does not answer: then its sessions are ended, and the stream with them.
    const drained = new AbortController();
    const bound = pause(clock, limits.drainMs, drained.signal).then(() =>
      drained.signal.aborted ? undefined : source[Symbol.asyncDispose](),
    );
    try {
      while (confirmation.awaitedTargetLsn !== null && goesOn()) {
        await pause(clock, 20, stream.ended);
        await merger.pollDurable();
      }
      for (let known = -1n; known < confirmation.confirmed && goesOn();) {
        stream.sendStatus();
        await pause(clock, 10, stream.ended);
        known = (await inspectSlot(source.client, this.#slot))?.confirmedLsn ?? confirmation.confirmed;
      }
    } catch (error) {
      this.#logger.debug({ err: error }, "not all that is merged could be confirmed; it will be sent again");
    } finally {
      drained.abort();
      await bound;
    }
  }

  /** Notes what happened; gives how long to wait before the next attempt, in ms. */
  #react(error: unknown): number {
    const { status } = this.#parts;
    const reaction: Reaction = reactionTo(error, "stream");
    const message = error instanceof Error ? error.message : String(error);
    status.lastError = message;
    status.errors.set(reaction, (status.errors.get(reaction) ?? 0) + 1);
    if (reaction === "stop") {
      this.#enter("stopped");
      this.#logger.error({ err: error }, "the link has stopped; it is tried again now and then");
      return stoppedRetryMs;
    }
    this.#enter("waiting");
    const waitMs = this.#backoff.nextMs();
    this.#logger.warn(
      { err: error, reaction, waitMs: Math.round(waitMs) },
      "the link has ended; trying again",
    );
    return waitMs;
  }

  #enter(state: LinkState): void {
    const { status } = this.#parts;
    if (status.state !== state) {
      status.state = state;
      status.sinceMs = this.#context.clock.now();
      this.#logger.debug({ state }, "link");
    }
  }

  get #slot(): string {
    const { cluster, region } = this.#context;
    return slotName(clusterSlug(cluster), this.#parts.peer.id, region.id);
  }
}

interface Start {
  /** Everything before is merged here. */
  readonly from: bigint;
  /** What the slot says is confirmed. */
  readonly confirmed: bigint;
}

interface StreamParts {
  readonly source: SourceSession;
  readonly session: MergeSession;
  readonly target: Target;
  readonly start: Start;
  /** Take no more batches: the agent stops, the peer is gone, or the link is to begin anew. */
  readonly ending: AbortSignal;
}

/** Not an error: the attempt ends so that the next one copies what is marked. */
class CopyWanted extends Error {
  readonly reaction = "retry";
}
