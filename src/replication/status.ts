/**
 * What an agent knows of itself, as plain values. The links write it; `/metrics`, `/readyz` and the log
 * read it. Nothing here is computed twice: rates and verdicts are the reader's business.
 */
export interface AgentStatus {
  readonly region: string;
  readonly regionId: number;
  readonly cluster: string;
  readonly version: string;
  /** `standby`: another agent of this region holds the region's lock. */
  role: "starting" | "standby" | "active" | "stopping";
  readonly startedAtMs: number;
  readonly links: Map<string, LinkStatus>;
  /** Rows set aside in coregent.quarantine, by table. */
  quarantined: ReadonlyMap<string, number>;
  /** The slots of this region's peers at this region's server. */
  slots: readonly SlotStatus[];
}

/**
 * connecting: no session with the peer yet. resyncing: copying states (coregent.table_sync has rows).
 * streaming: merging the peer's WAL. waiting: backing off after an error. stopped: an error that a person must
 * settle, or the agent is going down.
 */
export type LinkState = "connecting" | "resyncing" | "streaming" | "waiting" | "stopped";

export interface LinkStatus {
  readonly peer: string;
  readonly peerId: number;
  state: LinkState;
  sinceMs: number;
  /** The peer's newest WAL position known, what was received, merged, and confirmed to the peer. */
  sourceLsn: bigint;
  receivedLsn: bigint;
  mergedLsn: bigint;
  confirmedLsn: bigint;
  /**
   * The position of the last progress written here, of which database of the peer's (null: none yet). Between it and
   * `mergedLsn` the peer has written nothing that concerns the other regions.
   */
  recordedLsn: bigint;
  incarnation: string | null;
  /** Commit time (ms since 1970, by the peer's clock) of the last merged transaction; 0: none yet. */
  mergedCommitMs: number;
  /** Commit time of the oldest transaction received and not merged; 0: nothing outstanding. */
  pendingCommitMs: number;
  /** When, by our clock, nothing of the peer was known to be outstanding for the last time; at first when it began. */
  currentAtMs: number;
  /** The peer's clock minus ours, in ms, and the uncertainty (half a round trip). */
  clockSkewMs: number;
  roundTripMs: number;
  transactions: number;
  rows: number;
  tombstones: number;
  batches: number;
  /** Count by `table` and conflict type. */
  readonly conflicts: Map<string, Map<string, number>>;
  /** Count of merge errors by reaction: retry, resync, quarantine, stop. */
  readonly errors: Map<string, number>;
  lastError: string | null;
  /** Slots lost or dropped and therefore made anew, since the start. */
  resyncs: number;
  resync: { readonly table: string; readonly rowsDone: number; readonly rowsTotal: number } | null;
  /** Tables of this peer that do not fit here, with the reason. */
  readonly misfits: Map<string, string>;
}

export interface SlotStatus {
  readonly name: string;
  readonly peer: string;
  readonly active: boolean;
  /** reserved, extended, unreserved, lost */
  readonly walStatus: string;
  readonly retainedBytes: number;
}

export const newLinkStatus = (peer: string, peerId: number, nowMs: number): LinkStatus => ({
  peer,
  peerId,
  state: "connecting",
  sinceMs: nowMs,
  sourceLsn: 0n,
  receivedLsn: 0n,
  mergedLsn: 0n,
  confirmedLsn: 0n,
  recordedLsn: 0n,
  incarnation: null,
  mergedCommitMs: 0,
  pendingCommitMs: 0,
  currentAtMs: nowMs,
  clockSkewMs: 0,
  roundTripMs: 0,
  transactions: 0,
  rows: 0,
  tombstones: 0,
  batches: 0,
  conflicts: new Map(),
  errors: new Map(),
  lastError: null,
  resyncs: 0,
  resync: null,
  misfits: new Map(),
});
