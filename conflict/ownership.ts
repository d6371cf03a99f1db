/** What the owner column says: the name of a region; null: nobody. */
export type Owner = string | null;

export interface OwnedWrite {
  /** The region in which the write is made. */
  readonly region: string;
  /** The owner by the row that is replaced; undefined: no live row is (an insert, also upon a tombstone). */
  readonly before: Owner | undefined;
  /** The owner by the row that is written; undefined: a delete. */
  readonly after: Owner | undefined;
  /** The writer makes it in place of an owner which it cannot reach. */
  readonly takeover: boolean;
  /** The table's setting. `provisional`: a takeover has no authority, so the returning owner's unseen writes win. */
  readonly failover: "takeover" | "provisional";
}

/** Whether a write on an owned table sets `base` to its own version. */
export const hasAuthority = ({ region, before, after, takeover, failover }: OwnedWrite): boolean => {
  if (takeover && failover === "takeover") return true;
  if (before === undefined) return after === region;
  if (before === region) return true;
  // To change the owner is to act for it: else the old owner's next write would undo the change unseen.
  return after !== undefined && after !== before;
};
