import { randomUUID } from "node:crypto";
import { setImmediate } from "node:timers/promises";
import { pino } from "pino";
import { type Mock, vi } from "vitest";
import { type Clock, systemClock } from "../../src/clock.ts";
import { type Batch, keepaliveBatch, type TableBatch } from "../../src/replication/batch.ts";
import { Confirmation } from "../../src/replication/confirm.ts";
import type { MergeSession } from "../../src/replication/merge-session.ts";
import { SpareSession } from "../../src/replication/spare-session.ts";
import { newLinkStatus } from "../../src/replication/status.ts";
import { Sweeper } from "../../src/replication/sweeper.ts";
import { TransactionMerger } from "../../src/replication/transaction-merger.ts";
import { type AgentContext, type AgentLimits, defaultLimits } from "../../src/replication/wiring.ts";
import type { MergeRegion } from "./merge-fixture.ts";

export interface MergerOptions {
  readonly clock?: Clock;
  readonly limits?: Partial<AgentLimits>;
}

export const contextIn = (region: MergeRegion, options: MergerOptions = {}): AgentContext => ({
  cluster: region.cluster,
  region: { name: "here", id: region.id, url: region.db.url },
  status: {} as AgentContext["status"],
  logger: pino({ level: "silent" }),
  clock: options.clock ?? systemClock(),
  random: Math.random,
  limits: { ...defaultLimits, ...options.limits },
  topology: () => ({ regionIds: [1, 2], peers: [] }),
});

/** In pg_stat_activity. */
export const aheadName = "coregent ahead > here";

/** A merger as a link has one, and the session that it may have beside its own. */
export class LocalMerger implements AsyncDisposable {
  readonly merger: TransactionMerger;
  readonly spare: SpareSession;
  readonly status = newLinkStatus("there", 2, 0);
  /** Each time the spare session was asked for. */
  readonly asked: Mock<SpareSession["take"]>;
  readonly #signal = new AbortController().signal;

  constructor(
    context: AgentContext,
    {
      session,
      spare = new SpareSession(context),
      origin = 2,
      from = 0n,
    }: {
      readonly session: MergeSession;
      readonly spare?: SpareSession;
      readonly origin?: number;
      readonly from?: bigint;
    },
  ) {
    this.spare = spare;
    this.asked = vi.spyOn(spare, "take");
    this.merger = new TransactionMerger({
      context,
      session,
      spare,
      confirmation: new Confirmation(from),
      sweeper: new Sweeper(),
      status: this.status,
      origin,
      incarnation: randomUUID(),
      fetch: () => Promise.reject(new Error("nothing is fetched")),
      askPosition: () => undefined,
    });
  }

  async merge(batch: Batch): Promise<void> {
    const { committed } = await this.merger.merge(batch, this.#signal);
    await committed;
  }

  /** Begins a batch, and what can be done for the next one. What that comes to is awaited by the caller. */
  async begin(batch: Batch, next: Batch): Promise<{ readonly done: Promise<void> }> {
    const done = this.merge(batch);
    done.catch(() => undefined);
    await setImmediate();
    this.merger.prepare(next);
    return { done };
  }

  /** One after the other, as a link merges what is far behind. */
  async mergeAll(batches: readonly Batch[]): Promise<void> {
    for (const [i, batch] of batches.entries()) {
      const next = batches[i + 1];
      if (next === undefined) await this.merge(batch);
      else await (await this.begin(batch, next)).done;
    }
  }

  /** From now on it has the second session, if that can be had. */
  async ready(): Promise<this> {
    this.merger.prepareAhead();
    await Promise.all(this.asked.mock.results.map(({ value }) => value as Promise<unknown>));
    await setImmediate();
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.merger[Symbol.asyncDispose]();
  }
}

/** Whole transactions that end at this position. */
export const batchUntil = (endLsn: bigint, ...tables: TableBatch[]): Batch => ({
  ...keepaliveBatch(endLsn, 0n),
  tables,
  states: tables.reduce((sum, { rows, tombstones }) => sum + rows.count + tombstones.count, 0),
  transactions: 1,
});
