/** What a region holds of one key. */
export interface HeldState {
  /**
   * `row` and `tombstone`: the highest state held. `unswept`: a row is visible which a tombstone here outranks.
   * `quarantined`: a state came that does not fit, and what is visible is older. `absent`: nothing.
   */
  readonly kind: "row" | "tombstone" | "unswept" | "quarantined" | "absent";
  readonly base: bigint;
  readonly version: bigint;
  /** Version of the row that readers see; null if they see none. */
  readonly visible: bigint | null;
  readonly visibleBase: bigint;
  /** Hash of the visible row's content, with `deep`; null otherwise. */
  readonly content: string | null;
}

/**
 * Why two regions do not show the same for a key.
 * - `states`: they hold different states, and nothing on its way would change that.
 * - `content`: rows of one version differ in their columns (only seen with `deep`).
 * - `inFlight`: a link between them had not passed the position at which its source was when the difference was seen.
 * - `moving`: its states kept changing while they were looked at.
 * - `quarantined`: the regions hold the same, but one of them had to set it aside.
 * - `resyncing`: a region is still copying the table from a peer.
 */
export type DifferenceKind = "states" | "content" | "inFlight" | "moving" | "quarantined" | "resyncing";

export interface Difference {
  /** JSON array of the key's columns in text form, as in coregent.conflict and coregent.quarantine. */
  readonly key: string;
  readonly kind: DifferenceKind;
  readonly states: Readonly<Record<string, HeldState>>;
}

export interface TableInRegion {
  readonly rows: bigint;
  /** Sum of the hashes of (key, base, version) of all rows, modulo 2^64, in hexadecimal. */
  readonly hash: string;
  /** All that are kept; those that outrank nothing anywhere do not count in comparisons. */
  readonly tombstones: bigint;
  readonly quarantined: bigint;
}

export interface TableReport {
  readonly name: string;
  readonly verdict: Verdict;
  /** By region name; a region without this table is not here. */
  readonly regions: Readonly<Record<string, TableInRegion>>;
  /** Regions that are reachable and do not replicate the table. */
  readonly missingIn: readonly string[];
  /** Regions that are still copying it. */
  readonly resyncingIn: readonly string[];
  /** Keys that differed when first seen, and were found to be the same, or replaced everywhere, since. */
  readonly settled: number;
  readonly counts: Readonly<Record<DifferenceKind, number>>;
  /** The first ones, up to the limit. */
  readonly differences: readonly Difference[];
  /** There were more keys to look at than the limit allows: the counts are lower bounds. */
  readonly more: boolean;
  /** Columns that `deep` could not compare, because they are not in every region with one type. */
  readonly notCompared: readonly string[];
}

export interface Orphans {
  readonly region: string;
  readonly table: string;
  readonly constraint: string;
  readonly references: string;
  readonly count: bigint;
  /** Keys of the first ones, as in `Difference`. */
  readonly keys: readonly string[];
}

export type Verdict = "equal" | "degraded" | "diverged";

export interface VerifyReport {
  /**
   * `diverged`: reachable regions hold different states that no replication is about to change. `degraded`: no such
   * difference was found, but the proof is not whole, or something needs attention (`reasons`).
   */
  readonly verdict: Verdict;
  readonly reasons: readonly string[];
  readonly deep: boolean;
  readonly elapsedMs: number;
  readonly regions: readonly {
    readonly name: string;
    readonly id: number;
    readonly problem: string | null;
  }[];
  readonly tables: readonly TableReport[];
  readonly orphans: readonly Orphans[];
}
