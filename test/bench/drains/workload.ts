import type { Bar, BenchContext } from "../case.ts";

/** Changes that are written at the source while nobody reads them. All content follows from the numbers alone. */
export interface Workload {
  readonly name: string;
  readonly title: string;
  readonly bar: Bar | null;
  readonly unit: "rows/s" | "transactions/s";
  /** CREATE TABLE for every table. */
  readonly schema: string;
  readonly tables: readonly string[];
  /** Sizes at the bench's scale, and the SQL for them. */
  at(context: Pick<BenchContext, "scaled">): SizedWorkload;
}

export interface SizedWorkload {
  /** What the rate counts, in the workload's unit. */
  readonly counted: number;
  /** Row changes that are read by the consumer; processor time is given per million of them. */
  readonly changes: number;
  /** Rows that are there before, at both ends. */
  readonly seed: readonly string[];
  /** Statements, each sent alone, so that a DO block may commit as often as it likes. */
  readonly backlog: readonly string[];
}

/** Written in a transaction of its own after the seed (0) and after the backlog (1): whoever has it has all. */
export const markerSchema = "CREATE TABLE marker (id int PRIMARY KEY)";
export const marker = { seeded: 0, written: 1 } as const;
export const setMarker = (id: number): string => `INSERT INTO marker VALUES (${id})`;

/** Runs a block `count` times, `n` counting from 1, each in a transaction of its own. */
export const inTransactions = (count: number, body: string): string =>
  `DO $$ BEGIN FOR n IN 1..${count} LOOP ${body} COMMIT; END LOOP; END $$`;
