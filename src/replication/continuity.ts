/**
 * Whether a link may go on where it was. Pure: link.ts reads the values and acts.
 *
 * The peer's slot holds WAL from `confirmedLsn` on; this region has merged everything before `progress.lsn`. As
 * only durable progress is confirmed, the slot is never ahead of the progress, and the progress never ahead of the
 * peer's WAL, unless something went wrong: the slot was dropped and made anew, this region or the peer was restored
 * from a backup, a standby of the peer took over that had not all its WAL, or the peer is another database than
 * before. Then changes are missing that no stream will bring, and the peer's states are copied: those that the peer
 * wrote, or, if this region may be the one that was set back, all, since its own later writes are only at its peers.
 */
export interface Progress {
  /** Of the peer's database. */
  readonly incarnation: string;
  readonly lsn: bigint;
}

export type Continuity =
  | { readonly kind: "continue"; readonly from: bigint }
  | {
      readonly kind: "resync";
      readonly from: bigint;
      readonly states: "own" | "full";
      readonly reason: string;
    };

export interface ContinuingSlot {
  readonly confirmedLsn: bigint;
  /** Where the peer's WAL stands. */
  readonly sourceLsn: bigint;
  /** It was made just now. */
  readonly created: boolean;
}

export const judgeContinuity = (
  progress: Progress | null,
  slot: ContinuingSlot,
  peerIncarnation: string,
): Continuity => {
  const resync = (reason: string, states: "own" | "full" = "own"): Continuity => ({
    kind: "resync",
    from: slot.confirmedLsn,
    states,
    reason,
  });
  if (progress === null) {
    return resync("first contact");
  }
  if (progress.incarnation !== peerIncarnation) {
    return resync("the peer's database is another one than before");
  }
  if (slot.sourceLsn < progress.lsn) {
    // To go on from there would leave out all that the peer writes until its WAL has come so far again.
    return resync("the peer's WAL ends before the last change merged here: the peer was set back");
  }
  if (slot.created) {
    return resync("the slot was lost and made anew");
  }
  if (slot.confirmedLsn > progress.lsn) {
    return resync(
      "the slot starts after the last change merged here: it was made anew, or this region was set back",
      "full",
    );
  }
  return { kind: "continue", from: progress.lsn };
};
