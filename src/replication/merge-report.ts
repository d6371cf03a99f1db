import type { ConflictType } from "../../conflict/classify.ts";
import type { State } from "../../conflict/state.ts";
import type { KeySet } from "./merge-keys.ts";

/** A state that lost against one which had not seen it. Whether that is reported, conflict-log.ts decides. */
export interface Candidate {
  /** JSON array of the key columns' text forms. */
  readonly key: string;
  /** A row's content is a JSON object column -> text form. */
  readonly state: State;
  /**
   * A tombstone that was found below a row. It may have been overruled long ago, so it is reported only if it never
   * was here. What statements return as replaced or refused has been overruled just now.
   */
  readonly maybeOld: boolean;
}

export interface ConflictCount {
  readonly table: string;
  readonly type: ConflictType;
  readonly count: number;
}

/** What one call of mergeBatch did. All of it holds only once the transaction is committed. */
export interface MergeReport {
  /** States that were higher than what was held, and are now held. */
  readonly rowsMerged: number;
  readonly tombstonesMerged: number;
  /** Rows removed because a tombstone outranks them. */
  readonly rowsSwept: number;
  /** Newly logged. */
  readonly conflicts: readonly ConflictCount[];
  /** Rows set aside because they do not fit. */
  readonly quarantined: number;
  /** Keys of the tombstones of this batch, and of rows that met one, to be swept again after the commit (see Sweeper). */
  readonly sweepLater: readonly KeySet[];
  /**
   * Rows had to be fetched from the source: its stream must be merged up to this position in the same transaction,
   * or others may see the fetched rows without what they came with. Null: nothing was fetched.
   */
  readonly mergeThrough: bigint | null;
}

/** The same, while it is being counted. */
export class MergeCounts {
  rowsMerged = 0;
  tombstonesMerged = 0;
  rowsSwept = 0;
  quarantined = 0;
  mergeThrough: bigint | null = null;
  /** Highest version that was replaced by a lower one; 0n: none. */
  floor = 0n;
  readonly sweepLater: KeySet[] = [];
  readonly #conflicts = new Map<string, { table: string; type: ConflictType; count: number }>();

  conflict(table: string, type: ConflictType): void {
    const entry = this.#conflicts.get(`${type} ${table}`) ?? { table, type, count: 0 };
    entry.count += 1;
    this.#conflicts.set(`${type} ${table}`, entry);
  }

  raiseFloor(floor: string | null): void {
    if (floor !== null && BigInt(floor) > this.floor) this.floor = BigInt(floor);
  }

  fetchedThrough(position: bigint): void {
    if (this.mergeThrough === null || position > this.mergeThrough) this.mergeThrough = position;
  }

  report(): MergeReport {
    const { rowsMerged, tombstonesMerged, rowsSwept, quarantined, mergeThrough, sweepLater } = this;
    return {
      rowsMerged,
      tombstonesMerged,
      rowsSwept,
      conflicts: [...this.#conflicts.values()],
      quarantined,
      sweepLater,
      mergeThrough,
    };
  }
}
