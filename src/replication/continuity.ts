/**
 * Whether a link may go on where it was. Pure: link.ts reads the values and acts.
 *
 * The peer's slot holds WAL from `confirmedLsn` on; this region has merged everything before `progress.lsn`. As
 * only durable progress is confirmed, the slot is never ahead of the progress, unless something went wrong: the slot
 * was dropped and made anew, this region was restored from a backup, or the peer is another database than
 * before. Then changes are missing that no stream will bring, and the peer's states are copied.
 */
export interface Progress {
  /** Of the peer's database. */
  readonly incarnation: string;
  readonly lsn: bigint;
}

export type Continuity =
  | { readonly kind: "continue"; readonly from: bigint }
  | { readonly kind: "resync"; readonly from: bigint; readonly reason: string };

export const judgeContinuity = (
  progress: Progress | null,
  slot: { readonly confirmedLsn: bigint },
  peerIncarnation: string,
): Continuity => {
  const resync = (reason: string): Continuity => ({ kind: "resync", from: slot.confirmedLsn, reason });
  if (progress === null) {
    return resync("first contact");
  }
  if (progress.incarnation !== peerIncarnation) {
    return resync("the peer's database is another one than before");
  }
  if (slot.confirmedLsn > progress.lsn) {
    return resync("the slot starts after the last change merged here: it was lost and made anew");
  }
  return { kind: "continue", from: progress.lsn };
};
