import Table from "cli-table3";
import type { Bar, BenchResult, CpuLine, Measure } from "./case.ts";
import { median } from "./statistics.ts";

export interface Judged {
  readonly name: string;
  readonly title: string;
  readonly unit: string;
  readonly ours: number;
  readonly native: number | null;
  readonly nativeBinary: number | null;
  /** Of pglogical on PostgreSQL 15, with `--peers`. */
  readonly pglogical: number | null;
  readonly ratio: number | null;
  readonly bar: number | null;
  readonly aim: number | null;
  readonly barOf: Bar["of"] | null;
  readonly barIs: Bar["is"] | null;
  readonly met: boolean | null;
  readonly aimMet: boolean | null;
  readonly range: Readonly<Record<"ours" | "native" | "nativeBinary", readonly [number, number] | null>>;
  readonly runs: number;
  readonly notes: readonly string[];
}

const medianOrNull = (values: readonly number[] = []): number | null =>
  values.length === 0 ? null : median(values);

const rangeOf = (values: readonly number[] = []): readonly [number, number] | null =>
  values.length === 0 ? null : [Math.min(...values), Math.max(...values)];

const holds = (bar: Bar, figure: number | null, bound: number | null): boolean | null => {
  if (bound === null || figure === null) return null;
  return bar.is === "at least" ? figure >= bound : figure <= bound;
};

/** The medians against the bar. */
export const judge = (measure: Measure): Judged => {
  const { bar } = measure;
  const ours = median(measure.ours);
  const native = medianOrNull(measure.native);
  const ratio = native === null ? null : ours / native;
  const judged = { ours, ratio, difference: native === null ? null : ours - native }[bar?.of ?? "ours"];
  return {
    name: measure.name,
    title: measure.title,
    unit: measure.unit,
    ours,
    native,
    nativeBinary: medianOrNull(measure.nativeBinary),
    pglogical: medianOrNull(measure.pglogical),
    ratio,
    bar: bar?.value ?? null,
    aim: bar?.aim ?? null,
    barOf: bar?.of ?? null,
    barIs: bar?.is ?? null,
    met: bar === null ? null : holds(bar, judged, bar.value),
    aimMet: bar === null ? null : holds(bar, judged, bar.aim),
    range: {
      ours: rangeOf(measure.ours),
      native: rangeOf(measure.native),
      nativeBinary: rangeOf(measure.nativeBinary),
    },
    runs: measure.ours.length,
    notes: measure.notes ?? [],
  };
};

export const figure = (value: number | null): string => {
  if (value === null) return "-";
  const size = Math.abs(value);
  return value.toLocaleString("en-GB", {
    maximumFractionDigits: size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3,
  });
};

const withRange = (value: number | null, range: readonly [number, number] | null): string =>
  value === null || range === null || range[0] === range[1]
    ? figure(value)
    : `${figure(value)}\n${figure(range[0])} .. ${figure(range[1])}`;

const boundText = ({ barOf, barIs, unit }: Judged, value: number | null): string => {
  if (value === null) return "-";
  const sign = barIs === "at least" ? ">=" : "<=";
  if (barOf === "difference") return `${sign} native + ${figure(value)} ${unit}`;
  return `${sign} ${figure(value)}${barOf === "ratio" ? " x" : ` ${unit}`}`;
};

const metText = ({ met, aimMet }: Judged): string => {
  if (met === null) return "-";
  if (!met) return "NOT MET";
  return aimMet === true ? "yes, and the aim" : "yes";
};

const style = { style: { head: [], border: [] } };
const withoutLines = { chars: { mid: "", "left-mid": "", "mid-mid": "", "right-mid": "" } };

/** Medians; below them the lowest and the highest run. */
export const measuresTable = (measures: readonly Judged[]): string => {
  const table = new Table({
    head: ["case", "unit", "ours", "native", "native binary", "ratio", "bar", "aim", "met"],
    colWidths: [36],
    wordWrap: true,
    colAligns: ["left", "left", "right", "right", "right", "right", "left", "left", "left"],
    ...style,
  });
  for (const judged of measures) {
    table.push([
      `${judged.name}\n${judged.title}`,
      judged.unit,
      withRange(judged.ours, judged.range.ours),
      withRange(judged.native, judged.range.native),
      withRange(judged.nativeBinary, judged.range.nativeBinary),
      figure(judged.ratio),
      boundText(judged, judged.bar),
      boundText(judged, judged.aim),
      metText(judged),
    ]);
  }
  return table.toString();
};

/** For `--peers`. */
export const peersText = (measures: readonly Judged[]): string => {
  const lines = measures.flatMap(({ name, unit, ours, pglogical }) =>
    pglogical === null
      ? []
      : [`  ${name}: ${figure(pglogical)} ${unit}, ours ${figure(ours / pglogical)} times as many`],
  );
  return [
    "pglogical on PostgreSQL 15:",
    ...(lines.length === 0 ? ["  not installed, or no drain was run"] : lines),
  ].join("\n");
};

export interface CpuRow {
  readonly name: string;
  readonly side: string;
  /** CPU seconds per million changes: medians of the runs. */
  readonly source: number;
  readonly agent: number;
  readonly target: number;
  /** Changes a second if nothing but processor time on `cores` cores limited it, each part having one at a time. */
  readonly bound: number;
}

export const cores = 2;

export const cpuRow = ({ name, side, changes, uses }: CpuLine): CpuRow => {
  const perMillion = (seconds: readonly number[]): number => (median(seconds) / changes) * 1e6;
  const source = perMillion(uses.map((use) => use.source));
  const agent = perMillion(uses.map((use) => use.agent));
  const target = perMillion(uses.map((use) => use.target));
  const bound = 1e6 / Math.max(source, agent, target, (source + agent + target) / cores);
  return { name, side, source, agent, target, bound };
};

export const cpuTable = (rows: readonly CpuRow[]): string => {
  const table = new Table({
    head: [
      "CPU seconds per million changes",
      "",
      "source",
      "agent",
      "target",
      "sum",
      `changes/s by CPU alone on ${cores} cores`,
    ],
    colAligns: ["left", "left", "right", "right", "right", "right", "right"],
    ...style,
    ...withoutLines,
  });
  for (const { name, side, source, agent, target, bound } of rows) {
    table.push([
      name,
      side,
      figure(source),
      figure(agent),
      figure(target),
      figure(source + agent + target),
      figure(bound),
    ]);
  }
  return table.toString();
};

export const failuresOf = (results: readonly BenchResult[]): string[] =>
  results.flatMap(({ failures }) => failures);
