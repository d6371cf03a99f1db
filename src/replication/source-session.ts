import type { Client } from "pg";
import { connect } from "../postgres/client.ts";
import { sqlStateOf } from "../postgres/sqlstate.ts";
import { parseLsn } from "./lsn.ts";
import type { LinkStatus } from "./status.ts";
import type { AgentContext, RegionAddress } from "./wiring.ts";

/** Who a peer's database says it is. */
export interface SourceIdentity {
  readonly regionId: number;
  readonly cluster: string;
  readonly incarnation: string;
  readonly serverVersion: number;
}

/**
 * Ordinary sessions with a peer, beside the replication stream: one that makes the slot and fetches states by key, which
 * may take long, and one whose pulse tells that the peer is there, with its clock and WAL position. It is also how a link
 * learns that the peer is shutting down: a fast shutdown ends ordinary sessions first and then waits for its
 * walsenders, for ever if a consumer is stalled but alive (FAULTS 7).
 */
export class SourceSession implements AsyncDisposable {
  readonly client: Client;
  readonly identity: SourceIdentity;
  /** Aborted when one of the sessions is gone, or the pulse has stopped. */
  readonly ended: AbortSignal;
  readonly #pulse: Client;
  readonly #ended = new AbortController();

  private constructor(clients: { readonly work: Client; readonly pulse: Client }, identity: SourceIdentity) {
    for (const client of [clients.work, clients.pulse]) {
      client.once("end", () => this.#ended.abort(new SourceGone()));
      client.on("error", () => this.#ended.abort(new SourceGone()));
    }
    this.client = clients.work;
    this.#pulse = clients.pulse;
    this.identity = identity;
    this.ended = this.#ended.signal;
    // Whoever waits for an answer of a silent peer is let go.
    this.ended.addEventListener("abort", () => void this[Symbol.asyncDispose]());
  }

  /** @param signal gives up connecting */
  static async open(peer: RegionAddress, context: AgentContext, signal: AbortSignal): Promise<SourceSession> {
    // Both at once: the peer may be far.
    const opening = ["work", "watch"].map((purpose) => openSession(purpose, { peer, context, signal }));
    try {
      const [work, pulse] = await Promise.all(opening);
      if (work === undefined || pulse === undefined) {
        throw new SourceGone();
      }
      return new SourceSession({ work, pulse }, await within(context, readIdentity(work, peer.name)));
    } catch (error) {
      for (const opened of await Promise.allSettled(opening)) {
        if (opened.status === "fulfilled") {
          await opened.value.end().catch(() => undefined);
        }
      }
      throw error;
    }
  }

  /**
   * Reads clock and position every `observeMs` until the signal is aborted, or the peer has not answered for
   * `silenceTimeoutMs`: then `ended` tells. Never rejects.
   */
  async watch(status: LinkStatus, context: AgentContext, signal: AbortSignal): Promise<void> {
    const { clock, limits } = context;
    const waiting = clock.nap();
    const ended = AbortSignal.any([signal, this.ended]);
    ended.addEventListener("abort", waiting.end, { once: true });
    while (!ended.aborted) {
      let answered = false;
      const observe = async (): Promise<void> => {
        await this.observe(status, clock.now).catch(() => undefined);
        answered = true;
        waiting.end();
      };
      void observe();
      await waiting.take(limits.silenceTimeoutMs);
      if (!answered && !ended.aborted) this.#ended.abort(new SourceGone());
      if (!ended.aborted) await clock.beat(limits.observeMs, ended);
    }
  }

  private async observe(status: LinkStatus, now: () => number): Promise<void> {
    const before = now();
    const { rows } = await this.#pulse.query<{ clock: string; lsn: string }>({
      name: "observe",
      text: "SELECT coregent.clock_us()::text AS clock, pg_current_wal_lsn()::text AS lsn",
    });
    const after = now();
    const [row] = rows;
    if (row === undefined) {
      return;
    }
    status.roundTripMs = after - before;
    status.clockSkewMs = Number(row.clock) / 1000 - (before + after) / 2;
    const lsn = parseLsn(row.lsn);
    status.sourceLsn = lsn > status.sourceLsn ? lsn : status.sourceLsn;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled([this.client.end(), this.#pulse.end()]);
  }
}

interface Opening {
  readonly peer: RegionAddress;
  readonly context: AgentContext;
  readonly signal: AbortSignal;
}

const openSession = (purpose: string, { peer, context, signal }: Opening): Promise<Client> =>
  connect(peer.url, {
    applicationName: `coregent ${purpose} ${peer.name} > ${context.region.name}`,
    connectTimeoutMs: context.limits.connectTimeoutMs,
    line: peer.line,
    signal,
  });

/** @throws SourceGone when it takes longer than connecting may */
const within = async <T>({ clock, limits }: AgentContext, work: Promise<T>): Promise<T> => {
  const answered = new AbortController();
  const late = clock.sleep(limits.connectTimeoutMs, answered.signal).then(() => {
    throw new SourceGone();
  });
  late.catch(() => undefined);
  try {
    return await Promise.race([work, late]);
  } finally {
    answered.abort();
  }
};

/** The configuration points to a database of another region or cluster: nothing of it must be merged. */
export class WrongPeer extends Error {
  readonly reaction = "stop";

  /** @throws WrongPeer unless the database is the peer's */
  static check(identity: SourceIdentity, peer: RegionAddress, cluster: string): void {
    if (identity.regionId !== peer.id || identity.cluster !== cluster) {
      throw new WrongPeer(
        `the database configured for region ${peer.name} (id ${peer.id} of cluster ${cluster}) belongs to ` +
          `region id ${identity.regionId} of cluster ${identity.cluster}`,
      );
    }
  }
}

/** The peer's database has no schema of ours yet. */
export class NotInstalled extends Error {
  readonly reaction = "retry";
  constructor(peer: string, cause?: unknown) {
    super(`region ${peer} is not prepared yet: run coregent init`, { cause });
  }
}

/** The session with the peer has ended: it restarts, shuts down, or the network is cut. */
export class SourceGone extends Error {
  readonly reaction = "retry";
  constructor() {
    super("the peer has closed its session, or cannot be reached any more");
  }
}

const readIdentity = async (client: Client, peer: string): Promise<SourceIdentity> => {
  const { rows } = await client
    .query<{
      region: number;
      cluster: string;
      incarnation: string;
      version: number;
    }>(
      `SELECT region_id AS region, cluster, incarnation::text AS incarnation,
            current_setting('server_version_num')::int AS version
       FROM coregent.local`,
    )
    .catch((error: unknown) => {
      // 3F000, 42P01: no such schema or table
      throw ["3F000", "42P01"].includes(sqlStateOf(error) ?? "") ? new NotInstalled(peer, error) : error;
    });
  const [row] = rows;
  if (row === undefined) {
    throw new NotInstalled(peer);
  }
  return {
    regionId: row.region,
    cluster: row.cluster,
    incarnation: row.incarnation,
    serverVersion: Math.trunc(row.version / 10_000),
  };
};
