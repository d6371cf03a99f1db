import type { Column, ReplicatedTable } from "../postgres/table.ts";

/** Two relations hold the states of a table: the table itself, and its tombstone relation. */
export type StateKind = "row" | "tombstone";

/**
 * How the fields of states are encoded: as the types' send functions write them, or as text. Bytes of the two are
 * never mixed in one set.
 */
export type StateFormat = "binary" | "text";

/**
 * States of one relation, at most one per key, in ascending order of the keys' bytes (the order in which locks are
 * taken). Immutable. A set is one SQL parameter: a Buffer, which pg sends in binary format.
 *
 *     client.query(`SELECT x.* FROM ${set.source(1)} AS x`, [set.value()])
 */
export interface StateSet {
  readonly table: ReplicatedTable;
  readonly kind: StateKind;
  readonly format: StateFormat;
  readonly count: number;
  /** Size of the fields, in bytes. */
  readonly bytes: number;
  /**
   * The columns that these states carry, in attribute order: what a merge writes. Columns of the relation that are not
   * here are NULL in `source`: generated ones, those which the source does not have (keep the local value, or the
   * default on insert), and `unchanged`.
   */
  readonly columns: readonly Column[];
  /**
   * Columns whose values are not here because the WAL did not hold them (TOAST). The local value is exact if the local
   * row's version is `unchangedSince(i)`, otherwise the row must be fetched from its source. Empty for whole states.
   */
  readonly unchanged: readonly Column[];
  /** The set as a FROM item whose columns are the relation's, e.g. `unnest($1::"public"."t"[])` for parameter 1. */
  source(parameter: number): string;
  /** The parameter. Built on the first call, kept for the next. */
  value(): Buffer;
  /** The carried columns of all states as the data of a binary COPY. Only of format `binary`. Built as `value` is. */
  copyData(): Buffer;
  version(index: number): bigint;
  /** 0 where the table has no owners. */
  base(index: number): bigint;
  prev(index: number): bigint;
  /** Whether its `prev` is 0: whoever wrote it held nothing of the key. */
  isFirst(index: number): boolean;
  seen(index: number): readonly bigint[];
  /** The version at which the local values of `unchanged` are exact. Equals `prev` unless changes were collapsed. */
  unchangedSince(index: number): bigint;
  /** The start of the key as a number: equal for equal keys, and ascending. Of sets as below. */
  keyPrefix(index: number): number;
  /** Equal for equal keys, among all sets of one table (rows and tombstones) and one format. Not for people. */
  keyId(index: number): string;
  /** Bytes of one field in the set's format; null is SQL NULL, or a column that the states do not carry. */
  field(index: number, column: string): Buffer | null;
  /**
   * One column of all states as a parameter: `unnest(${columnSource("id", 1)})`. For work by key, here or at the
   * source, without the row type: it works where a whole row cannot be read here.
   */
  columnSource(column: string, parameter: number): string;
  columnValue(column: string): Buffer;
  /** The states from `start` up to `end` (exclusive). */
  slice(start: number, end: number): StateSet;
  /** The states of these indices, which ascend. */
  pick(indices: readonly number[]): StateSet;
}
