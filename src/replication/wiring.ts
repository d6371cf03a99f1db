import type { Logger } from "pino";
import type { Clock, RandomSource } from "../clock.ts";
import type { Line } from "../postgres/line.ts";
import type { AgentStatus } from "./status.ts";

/** A region as the links need it: what its versions carry, and where its database is. */
export interface RegionAddress {
  readonly name: string;
  readonly id: number;
  /** Connection URL, with its secret. Never logged. */
  readonly url: string;
  /** How it is reached; default: directly. */
  readonly line?: Line;
}

/** The peers as they are now. `regionIds` are those of the whole topology, this region's too. */
export interface Peers {
  readonly regionIds: readonly number[];
  readonly peers: readonly RegionAddress[];
}

/** Bounds of an agent's parts. */
export interface AgentLimits {
  readonly maxBatchRows: number;
  readonly maxBatchBytes: number;
  /** A link whose peer is so many bytes of WAL ahead reads them by SQL first, in pieces of so many messages or bytes of WAL. */
  readonly backlogBytes: number;
  readonly backlogPieceChanges: number;
  readonly backlogPieceBytes: number;
  /**
   * Not where its transactions have more than so many bytes of WAL on average: a piece ends with a transaction, and comes when
   * all of it has been decoded, so we would wait for the end of one that is huge before we begin to merge it.
   */
  readonly backlogTransactionBytes: number;
  /**
   * A stream whose peer is so many bytes of WAL ahead brings transactions of more than so many kB while they are decoded.
   * With more, the target would wait longer for the first and for the last; with less, the source would write more to its
   * disk (toasted values, and what ON CONFLICT inserts, cannot be sent while they are incomplete).
   */
  readonly streamingBytes: number;
  readonly streamingKb: number;
  /** While a peer is away, at least so much WAL lies between two points that are logged for decoding to begin at. */
  readonly restartPointBytes: number;
  /** Rows of one piece when states are copied, of which there are two at a time: one is merged, one received. */
  readonly copyPieceRows: number;
  readonly connectTimeoutMs: number;
  /** A peer that sends nothing for so long, and does not answer on an ordinary session either, is gone. */
  readonly silenceTimeoutMs: number;
  readonly minBackoffMs: number;
  readonly maxBackoffMs: number;
  /** How often the position of an idle peer is recorded, so that its WAL can go. */
  readonly idleProgressMs: number;
  /** How often the peer's clock and WAL position are read, and the region's own slots. */
  readonly observeMs: number;
  /** How long a stopping link may take to make its last merges durable and confirm them. */
  readonly drainMs: number;
}

export const defaultLimits: AgentLimits = {
  maxBatchRows: 10_000,
  maxBatchBytes: 4 * 1024 * 1024,
  backlogBytes: 16 * 1024 * 1024,
  backlogPieceChanges: 100_000,
  backlogPieceBytes: 16 * 1024 * 1024,
  backlogTransactionBytes: 4 * 1024 * 1024,
  streamingBytes: 16 * 1024 * 1024,
  streamingKb: 4 * 1024,
  restartPointBytes: 8 * 1024 * 1024,
  copyPieceRows: 5_000,
  connectTimeoutMs: 10_000,
  silenceTimeoutMs: 30_000,
  minBackoffMs: 100,
  maxBackoffMs: 5_000,
  idleProgressMs: 10_000,
  observeMs: 2_000,
  drainMs: 5_000,
};

/** What every part of an agent is given; time and chance come in here. */
export interface AgentContext {
  readonly cluster: string;
  readonly region: RegionAddress;
  readonly status: AgentStatus;
  readonly logger: Logger;
  readonly clock: Clock;
  readonly random: RandomSource;
  readonly limits: AgentLimits;
  /** The topology as it is at the moment of the call. */
  readonly topology: () => Peers;
}

/** Waits, and returns early (without an error) when the signal is aborted. */
export const pause = (clock: Clock, ms: number, signal: AbortSignal): Promise<void> =>
  clock.sleep(ms, signal).catch(() => undefined);
