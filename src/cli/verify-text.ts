import { microsOf, regionOf } from "../../conflict/version.ts";
import type { Topology } from "../../regions/topology.ts";
import type { Difference, HeldState, TableReport, VerifyReport } from "../replication/verify-report.ts";
import { printable, type Colors } from "./output.ts";
import { renderTable, type Cell } from "./table.ts";

/** A version as people read it: when and by which region it was written. */
export const versionText = (version: bigint, topology: Pick<Topology, "regions">): string => {
  const id = regionOf(version);
  const micros = microsOf(version);
  const date = new Date(Number(micros / 1000n));
  const time = Number.isNaN(date.getTime())
    ? `${micros} us`
    : `${date.toISOString().slice(0, -1).replace("T", " ")}${String(micros % 1000n).padStart(3, "0")}`;
  return `${time} ${topology.regions.find((region) => region.id === id)?.name ?? `region ${id}`}`;
};

/** The whole report for people. */
export const verifyText = (report: VerifyReport, topology: Topology, color: Colors): string => {
  const parts = [verdictLine(report, color), tablesText(report, color)];
  for (const table of report.tables) {
    if (table.differences.length > 0) parts.push(differencesText(table, topology, color));
  }
  if (report.orphans.length > 0) parts.push(orphansText(report, color));
  return parts.filter((part) => part !== "").join("\n\n");
};

const verdictLine = (report: VerifyReport, color: Colors): string => {
  const reached = report.regions.filter((region) => region.problem === null);
  const names = reached.map((region) => region.name).join(", ");
  const seconds = (report.elapsedMs / 1000).toFixed(1);
  const head = {
    equal: color.green("equal"),
    degraded: color.yellow("degraded"),
    diverged: color.red("diverged"),
  }[report.verdict];
  const what =
    report.verdict === "equal"
      ? `${names} hold the same${report.deep ? ", content included" : ""}`
      : `compared ${names === "" ? "no region" : names}`;
  const reasons = report.reasons.map((reason) => `\n  - ${printable(reason)}`).join("");
  return `${color.bold(head)}: ${printable(what)} (${seconds} s)${reasons}`;
};

const tablesText = (report: VerifyReport, color: Colors): string => {
  if (report.tables.length === 0) return "";
  const names = report.regions.filter((region) => region.problem === null).map((region) => region.name);
  const paint = { equal: color.green, degraded: color.yellow, diverged: color.red };
  const rows = report.tables.map((table): Cell[] => [
    table.name,
    { text: table.verdict, paint: paint[table.verdict] },
    ...names.map((name) => String(table.regions[name]?.rows ?? "-")),
    hashText(table),
    span(names.map((name) => table.regions[name]?.tombstones)),
    span(names.map((name) => table.regions[name]?.quarantined)),
  ]);
  return renderTable(
    {
      head: ["TABLE", "VERDICT", ...names.map((name) => `ROWS ${name}`), "HASH", "TOMBSTONES", "QUARANTINED"],
      rows,
      alignRight: [...names.map((_, index) => index + 2), names.length + 3, names.length + 4],
    },
    color,
  );
};

/** One hash if all regions have it; changes that came while they were read make them differ, too. */
const hashText = (table: TableReport): string => {
  const hashes = new Set(Object.values(table.regions).map((region) => region.hash));
  if (hashes.size === 1) return [...hashes][0] ?? "";
  return table.verdict === "equal" ? "(settled since)" : "differs";
};

/** One number where all regions have the same, else all of them. */
const span = (values: readonly (bigint | undefined)[]): string => {
  const distinct = [...new Set(values.map((value) => String(value ?? "-")))];
  return distinct.length === 1 ? (distinct[0] ?? "") : values.map((value) => String(value ?? "-")).join("/");
};

const meaning: Record<Difference["kind"], string> = {
  states: "different states",
  content: "one version, different content",
  inFlight: "on its way",
  moving: "kept changing",
  quarantined: "quarantined",
  resyncing: "being copied",
};

const differencesText = (table: TableReport, topology: Topology, color: Colors): string => {
  const total = Object.values(table.counts).reduce((sum, count) => sum + count, 0);
  const shown = table.differences.length;
  const more =
    total > shown || table.more ? ` (${shown} of ${table.more ? "more than " : ""}${total} shown)` : "";
  const blocks = table.differences.map((difference) => {
    const width = Math.max(...Object.keys(difference.states).map((name) => name.length));
    const sides = Object.entries(difference.states).map(
      ([region, state]) => `    ${printable(region.padEnd(width))}  ${stateText(state, topology)}`,
    );
    return [`  ${printable(difference.key)}  ${color.dim(meaning[difference.kind])}`, ...sides].join("\n");
  });
  return [`${color.bold(printable(table.name))}${more}`, ...blocks].join("\n");
};

const stateText = (state: HeldState, topology: Topology): string => {
  if (state.kind === "absent") return "absent";
  const base = state.base === 0n ? "" : `, base ${versionText(state.base, topology)}`;
  const visible =
    state.kind === "row" || state.kind === "tombstone"
      ? ""
      : state.visible === null
        ? "; no row visible"
        : `; visible: row ${versionText(state.visible, topology)}`;
  const content =
    state.content === null ? "" : `, content ${BigInt.asUintN(64, BigInt(state.content)).toString(16)}`;
  const name = state.kind === "unswept" ? "tombstone above a row" : state.kind;
  return `${name} ${versionText(state.version, topology)}${base}${visible}${content}`;
};

const orphansText = (report: VerifyReport, color: Colors): string =>
  [
    color.bold("Rows that refer to a row which is not there"),
    ...report.orphans.map(
      (orphan) =>
        `  ${printable(`${orphan.region}  ${orphan.table} (${orphan.constraint}) -> ${orphan.references}: ${orphan.count}`)}\n` +
        orphan.keys.map((key) => `    ${printable(key)}`).join("\n"),
    ),
  ].join("\n");
