import type { ReplicatedTable } from "../postgres/table.ts";
import type { StateSet } from "./states.ts";

/** What a batch holds of one table. A key is in one of the sets at most: its highest state by (base, version). */
export interface TableBatch {
  readonly table: ReplicatedTable;
  /** Whole rows. */
  readonly rows: StateSet;
  /** Rows with unchanged TOAST columns: one set for each combination of missing columns. Usually empty. */
  readonly partial: readonly StateSet[];
  readonly tombstones: StateSet;
}

/** Consecutive transactions of one peer, or a piece of one that is too large to be held. */
export interface Batch {
  /** By table name, ascending; sets may be empty, tables without any state are not here. */
  readonly tables: readonly TableBatch[];
  /** States in all sets. */
  readonly states: number;
  /** Changes that they were collapsed from. */
  readonly changes: number;
  readonly bytes: number;
  /** Transactions that end in this batch; 0 for a keepalive, or for a piece that does not end one. */
  readonly transactions: number;
  /** False: the last transaction goes on in the next batch, and both must be committed together. */
  readonly endsTransaction: boolean;
  /**
   * Everything before this position of the peer's WAL is in this batch and those before it. Only meaningful when
   * `endsTransaction`: exactly the end LSN of the last transaction, or a keepalive's.
   */
  readonly endLsn: bigint;
  /** When the last transaction committed at the peer, microseconds since 1970; of a keepalive, when it was sent. */
  readonly commitTime: bigint;
  /** Table name -> why its changes in this batch were left out. They must be copied once the table fits. */
  readonly skipped: ReadonlyMap<string, string>;
  /** Gives the memory of the sets back, to be used again: they must not be looked at any more. */
  release(): void;
}

/** What a keepalive says, as a batch: nothing of ours lies before this position. */
export const keepaliveBatch = (endLsn: bigint, commitTime: bigint): Batch => ({
  tables: [],
  states: 0,
  changes: 0,
  bytes: 0,
  transactions: 0,
  endsTransaction: true,
  endLsn,
  commitTime,
  skipped: new Map(),
  release: () => undefined,
});
