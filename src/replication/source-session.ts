import type { Client } from "pg";
import { connect } from "../postgres/client.ts";
import { sqlStateOf } from "../postgres/sqlstate.ts";
import { parseLsn } from "./lsn.ts";
import type { LinkStatus } from "./status.ts";
import { type AgentContext, pause, type RegionAddress } from "./wiring.ts";

/** Who a peer's database says it is. */
export interface SourceIdentity {
  readonly regionId: number;
  readonly cluster: string;
  readonly incarnation: string;
  readonly serverVersion: number;
}

/**
 * An ordinary session with a peer, beside the replication stream. It reads the peer's clock and WAL position, and
 * fetches states by key. It is also how a link learns that the peer is shutting down: a fast shutdown ends ordinary
 * sessions first and then waits for its walsenders, for ever if a consumer is stalled but alive (FAULTS 7).
 */
export class SourceSession implements AsyncDisposable {
  readonly client: Client;
  readonly identity: SourceIdentity;
  /** Aborted when the session is gone. */
  readonly ended: AbortSignal;

  private constructor(client: Client, identity: SourceIdentity) {
    const ended = new AbortController();
    client.once("end", () => ended.abort(new SourceGone()));
    client.on("error", () => ended.abort(new SourceGone()));
    this.client = client;
    this.identity = identity;
    this.ended = ended.signal;
  }

  static async open(peer: RegionAddress, context: AgentContext): Promise<SourceSession> {
    const client = await connect(peer.url, {
      applicationName: `coregent watch ${peer.name} > ${context.region.name}`,
      connectTimeoutMs: context.limits.connectTimeoutMs,
    });
    try {
      return new SourceSession(client, await readIdentity(client, peer.name));
    } catch (error) {
      await client.end().catch(() => undefined);
      throw error;
    }
  }

  /** Reads clock and position every `observeMs` until the signal is aborted. Never rejects. */
  async watch(status: LinkStatus, context: AgentContext, signal: AbortSignal): Promise<void> {
    const { clock, limits } = context;
    while (!signal.aborted && !this.ended.aborted) {
      try {
        await this.observe(status, clock.now);
      } catch {
        return; // The session is gone; `ended` tells the link.
      }
      await pause(clock, limits.observeMs, signal);
    }
  }

  private async observe(status: LinkStatus, now: () => number): Promise<void> {
    const before = now();
    const { rows } = await this.client.query<{ clock: string; lsn: string }>({
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
    await this.client.end().catch(() => undefined);
  }
}

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
