import type { Servers } from "./servers.ts";
import type { CpuUse } from "./cpu.ts";

/** What a consumer of changes is called in the table's columns. `nativeBinary`: streaming = parallel, binary = true. */
export type Side = "ours" | "native" | "nativeBinary" | "pglogical";

/** One line of the report. Figures are in `unit`, one for each measured run, warm-ups left out. */
export interface Measure {
  readonly name: string;
  readonly title: string;
  readonly unit: string;
  readonly ours: readonly number[];
  /** Empty where there is nothing to compare with. */
  readonly native: readonly number[];
  readonly nativeBinary?: readonly number[];
  /** With `--peers`. */
  readonly pglogical?: readonly number[];
  /** Null: printed, not judged. */
  readonly bar: Bar | null;
  readonly notes?: readonly string[];
}

/** `value` and `aim` bound ours / native, our own figure, or ours - native. */
export interface Bar {
  readonly of: "ratio" | "ours" | "difference";
  readonly is: "at least" | "at most";
  readonly value: number;
  readonly aim: number | null;
}

/** Processor time that a drain took, for the second table. */
export interface CpuLine {
  readonly name: string;
  /** A {@link Side}, or what else is told apart. */
  readonly side: string;
  readonly changes: number;
  /** Of each measured run. */
  readonly uses: readonly CpuUse[];
}

export interface BenchResult {
  readonly measures: readonly Measure[];
  readonly cpu?: readonly CpuLine[];
  /** Wrong results: the bench fails. */
  readonly failures: readonly string[];
}

export interface BenchContext {
  readonly servers: Servers;
  readonly runs: number;
  readonly warmUps: number;
  /** Of all numbers of rows and transactions; 1: as the bars say. */
  readonly scale: number;
  /** The largest, at this scale, that is a multiple of `multiple`. */
  scaled(count: number, multiple?: number): number;
  /** Whether pglogical is measured too. */
  readonly peers: boolean;
  say(line: string): void;
}

export interface BenchCase {
  /** For `--only`. */
  readonly name: string;
  /** Whether `--quick` has time for it. */
  readonly quick: boolean;
  run(context: BenchContext): Promise<BenchResult>;
}
