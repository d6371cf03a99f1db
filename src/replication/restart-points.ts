import type { Client } from "pg";
import { sqlStateOf } from "../postgres/sqlstate.ts";
import { formatLsn, readLsn } from "./lsn.ts";
import type { SlotStatus } from "./status.ts";
import type { AgentContext } from "./wiring.ts";

/** How often it looks while a peer is away. */
const lookMs = 300;
const retryMs = 60_000;

/** So much of what is kept for the peer that is farthest behind lies between two points, once that is more than `restartPointBytes`. */
const shareOfKept = 256n;

/** WAL that is kept for peers whose slots nobody streams from, of the one that is farthest behind; null: there are none. */
export const keptForAbsent = (slots: readonly SlotStatus[]): bigint | null => {
  const absent = slots.filter(({ active, walStatus }) => !active && walStatus !== "lost");
  return absent.length === 0 ? null : BigInt(Math.max(...absent.map(({ retainedBytes }) => retainedBytes)));
};

/**
 * Bytes of WAL between the last point and the next. Each point is a file at the server as long as WAL is kept from there, which every
 * process that decodes WAL flushes when it comes by: so they are fewer where a peer is far behind.
 */
export const spacingOf = (kept: bigint, leastBytes: bigint): bigint => {
  const share = kept / shareOfKept;
  return share > leastBytes ? share : leastBytes;
};

export interface Logging {
  /** A session of the region's database. */
  readonly client: Client;
  /** See {@link keptForAbsent}. */
  readonly kept: bigint;
  readonly signal: AbortSignal;
}

const positionQuery = { name: "wal-position", text: "SELECT pg_current_wal_insert_lsn()::text AS lsn" };
const pointQuery = { name: "restart-point", text: "SELECT pg_log_standby_snapshot()::text AS lsn" };

/**
 * Whoever decodes WAL begins at a restart point, where the server has logged which transactions run. By itself it does so
 * every 15 s, which may be hundreds of MB, and all since such a point is read again for each piece of a backlog
 * (backlog.ts). So while a peer is away, the region's agent has one logged for every `restartPointBytes` of WAL, and what is written in `lookMs`.
 */
export class RestartPoints {
  readonly #context: AgentContext;
  /** Where the last one was logged; 0: none in this session, so the first look logs one. */
  #last = 0n;
  #notBeforeMs = Number.NEGATIVE_INFINITY;

  constructor(context: AgentContext) {
    this.#context = context;
  }

  /** Has them logged for `ms`, to the next look, or until the signal is aborted. Rejects when the session is lost. */
  async logFor(ms: number, { client, kept, signal }: Logging): Promise<void> {
    const { clock, limits } = this.#context;
    const spacing = spacingOf(kept, BigInt(limits.restartPointBytes));
    const until = clock.monotonic() + ms;
    do {
      await this.#look(client, spacing);
      await clock.beat(lookMs, signal);
    } while (!signal.aborted && clock.monotonic() < until);
  }

  /** A server that does not do it (a role that may not, one in recovery) is asked again a minute later. */
  async #look(client: Client, spacing: bigint): Promise<void> {
    const { clock, logger } = this.#context;
    if (clock.monotonic() < this.#notBeforeMs) return;
    try {
      if ((await readLsn(client, positionQuery)) - this.#last < spacing) return;
      this.#last = await readLsn(client, pointQuery);
      logger.debug({ position: formatLsn(this.#last) }, "a restart point is logged");
    } catch (error) {
      if (sqlStateOf(error) === null) throw error;
      const isFirst = this.#notBeforeMs === Number.NEGATIVE_INFINITY;
      this.#notBeforeMs = clock.monotonic() + retryMs;
      logger[isFirst ? "info" : "debug"](
        { err: error },
        "no restart points are logged for peers that are away; it is tried every minute",
      );
    }
  }
}
