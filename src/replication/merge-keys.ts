import { identifier } from "../postgres/identifiers.ts";
import type { ReplicatedTable } from "../postgres/table.ts";
import type { StateSet } from "./states.ts";

/** Keys of one table as a FROM item `... AS k("a", "b")` and its parameters, which start at $1. */
export interface KeySet {
  readonly table: ReplicatedTable;
  readonly count: number;
  /** Of the parameters. */
  readonly bytes: number;
  readonly from: string;
  /** The same with a further column `cg_index`: the number of the state in its set, from 1. */
  readonly numbered: string;
  readonly values: readonly Buffer[];
}

/** The keys of a set's states. They hold nothing of the set's own memory. */
export const keysOf = (set: StateSet): KeySet => {
  const values = set.table.key.map((name) => set.columnValue(name));
  const sources = set.table.key.map((name, index) => set.columnSource(name, index + 1));
  const names = set.table.key.map(identifier).join(", ");
  const unnested = `unnest(${sources.join(", ")})`;
  return {
    table: set.table,
    count: set.count,
    bytes: values.reduce((sum, value) => sum + value.length, 0),
    from: `${unnested} AS k(${names})`,
    numbered: `${unnested} WITH ORDINALITY AS k(${names}, cg_index)`,
    values,
  };
};

/**
 * A FROM item for keys given as the texts that the conflict log names them by, in a text[] parameter. Its columns:
 * `cg_key`, and the key's own, typed. (A key column may well be named "key".)
 */
export const keysFromText = (table: ReplicatedTable, parameter: number): string => {
  const types = new Map(table.columns.map((column) => [column.name, column.type]));
  const columns = table.key.map(
    (name, index) => `(u.key::jsonb ->> ${index})::${types.get(name) ?? "text"} AS ${identifier(name)}`,
  );
  return `(SELECT u.key AS cg_key, ${columns.join(", ")} FROM unnest($${parameter}::text[]) AS u(key)) AS k`;
};
