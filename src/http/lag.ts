import type { LinkStatus } from "../replication/status.ts";

/**
 * How far a link is behind, in seconds, as a user would mean it: the age of the oldest change of the peer
 * that is not here yet. 0 while the link streams and nothing is outstanding.
 *
 * - Something is outstanding: now, by the peer's clock, minus the commit time that the peer gave it.
 * - Nothing is known to be outstanding, but the link does not stream: the peer may have written ever since it was
 *   last known to have nothing for us. (A cut link that reported 0 would hide the cut.)
 */
export const lagSeconds = (link: LinkStatus, nowMs: number): number => {
  const byCommit = link.pendingCommitMs > 0 ? nowMs + link.clockSkewMs - link.pendingCommitMs : 0;
  const byState = link.state === "streaming" ? 0 : nowMs - link.currentAtMs;
  return Math.max(0, byCommit, byState) / 1000;
};

/** WAL bytes of the peer that are known to exist and are not merged here. */
export const lagBytes = (link: LinkStatus): number => bytesBetween(link.mergedLsn, link.sourceLsn);

/** WAL bytes that are merged here and that the peer may not drop yet, since they are not confirmed. */
export const unconfirmedBytes = (link: LinkStatus): number => bytesBetween(link.confirmedLsn, link.mergedLsn);

// Before the first message a position is 0, and a difference from it would be the peer's whole history.
const bytesBetween = (low: bigint, high: bigint): number => (low > 0n && high > low ? Number(high - low) : 0);
