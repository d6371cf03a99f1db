import type { Logger } from "pino";
import { clusterSlug } from "../../regions/topology.ts";
import { type Backoff, createBackoff } from "../clock.ts";
import { originName, slotName } from "../postgres/install/names.ts";
import { type Reaction, reactionTo, sqlStateOf } from "../postgres/sqlstate.ts";
import { judgeContinuity } from "./continuity.ts";
import { copyPending } from "./copy.ts";
import { StreamedTooSoon } from "./decode.ts";
import { LinkStream, type Start } from "./link-stream.ts";
import { MergeSession } from "./merge-session.ts";
import { markForCopy, readProgress } from "./progress.ts";
import { dropSlot, ensureSlot, evictHolder, inspectSlot, type Slot } from "./slot.ts";
import { SourceSession, WrongPeer } from "./source-session.ts";
import type { LinkState, LinkStatus } from "./status.ts";
import type { SpareMemory } from "./spare-memory.ts";
import type { SpareSession } from "./spare-session.ts";
import type { Sweeper } from "./sweeper.ts";
import { readTarget } from "./target.ts";
import { type AgentContext, pause, type RegionAddress } from "./wiring.ts";

/** An error that a person must settle is tried again so seldom. */
const stoppedRetryMs = 15_000;

export interface LinkParts {
  readonly peer: RegionAddress;
  readonly status: LinkStatus;
  readonly sweeper: Sweeper;
  readonly spare: SpareSession;
  readonly memory: SpareMemory;
}

/**
 * One peer's stream into this region's master:
 *
 *     stream -> decode -> collect (Inbox) -> merge (TransactionMerger) -> confirm (Confirmation)
 *
 * A link lives in attempts. Each connects, makes sure that nothing is missing between what is merged here and what the
 * peer's slot still has (else the peer's states are copied first), streams until something fails, and ends.
 * What follows depends on the error's class alone (sqlstate.ts): retry and resync come back after a backoff, or when a peer that was
 * down answers a probe, and stop after a longer one, since a person has to act first.
 */
export class Link {
  readonly #context: AgentContext;
  readonly #parts: LinkParts;
  readonly #logger: Logger;
  readonly #backoff: Backoff;
  /**
   * The last attempt that streamed has met a transaction that is not to be merged before its commit has come, or failed
   * on something in a database, such as a lock: whole transactions are tried again by themselves, one that is being
   * streamed is not.
   */
  #wholeOnly = false;
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
    const { line } = this.#parts.peer;
    let back = new AbortController();
    let answered = new AbortController();
    const forget = [line?.onBack?.(() => back.abort()), line?.onAnswer?.(() => answered.abort())];
    while (!signal.aborted) {
      this.#again = new AbortController();
      back = new AbortController();
      try {
        await this.#attempt(signal);
      } catch (error) {
        const tooSoon = error instanceof StreamedTooSoon;
        // What failed before says nothing of transactions.
        const streamed = this.#parts.status.state === "streaming";
        if (tooSoon || streamed) this.#wholeOnly = tooSoon || sqlStateOf(error) !== null;
        if (tooSoon) this.#logger.info({ reason: error }, "large transactions are waited for");
        else if (!signal.aborted && !(error instanceof CopyWanted)) {
          const waitMs = this.#react(error);
          answered = new AbortController();
          // A peer that comes and goes may end a wait, but the next is longer still; and a person's work takes its time.
          const early = this.#parts.status.state === "stopped" ? [] : [answered.signal];
          await pause(this.#context.clock, waitMs, AbortSignal.any([signal, back.signal, ...early]));
          // What failed had to do with the line, which is another now.
          if (back.signal.aborted) this.#backoff.reset();
        }
      }
    }
    for (const each of forget) each?.();
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
    await this.#parts.spare.evictLeftOver(session);
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
      await new LinkStream({
        ...this.#parts,
        context,
        logger: this.#logger,
        slot: this.#slot,
        source,
        session,
        target,
        start,
        mayStream: !this.#wholeOnly,
        again: this.#again.signal,
        begun: () => this.#enter("streaming"),
        merged: () => this.#backoff.reset(),
      }).run(ending);
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

/** Not an error: the attempt ends so that the next one copies what is marked. */
class CopyWanted extends Error {
  readonly reaction = "retry";
}
