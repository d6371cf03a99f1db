import type { Colors } from "./output.ts";
import type { Severity } from "./findings.ts";
import { printable } from "./output.ts";
import { databaseOf, installedOf, type Check, type LinkReading } from "./status-facts.ts";
import type { StatusReport } from "./status-judge.ts";
import type { RegionReading } from "./status-read.ts";
import { bytes, duration, grouped } from "./status-text.ts";
import { renderTable, type Cell } from "./table.ts";

/** The report for people: a verdict line, the regions, the links, the checks. */
export const statusText = (report: StatusReport, color: Colors): string =>
  [
    `${paintOf(report.severity, color)(verdictWords[report.severity])}  ${color.bold(report.cluster)}: ` +
      printable(report.verdict),
    "",
    renderTable(
      {
        head: ["ID", "REGION", "POSTGRESQL", "AGENT", "CLOCK", "TABLES", "QUARANTINE"],
        rows: report.regions.map((region) => regionRow(region, color)),
        alignRight: [0, 4, 5, 6],
      },
      color,
    ),
    "",
    renderTable(
      {
        head: ["LINK", "STATE", "BEHIND", "BYTES", "ROUND TRIP", "WAL KEPT"],
        rows: report.links.map((link) => linkRow(link, color)),
        alignRight: [2, 3, 4, 5],
      },
      color,
    ),
    "",
    ...report.checks.flatMap((check) => checkLines(check, color)),
  ].join("\n");

const verdictWords: Record<Severity, string> = { ok: "OK", warning: "WARNING", critical: "CRITICAL" };
const checkWords: Record<Severity, string> = { ok: "Ok      ", warning: "Warning ", critical: "Critical" };

const paintOf = (severity: Severity, color: Colors): ((text: string) => string) => {
  switch (severity) {
    case "ok":
      return (text) => color.green(text);
    case "warning":
      return (text) => color.yellow(text);
    case "critical":
      return (text) => color.red(text);
    default:
      return severity satisfies never;
  }
};

const regionRow = (reading: RegionReading, color: Colors): readonly Cell[] => {
  const database = databaseOf(reading);
  const installed = installedOf(reading);
  const red = (text: string): Cell => ({ text, paint: (shown) => color.red(shown) });
  const quarantined = installed?.quarantine.reduce((sum, entry) => sum + entry.rows, 0);
  return [
    reading.id,
    reading.region,
    database === null ? red("unreachable") : database.serverVersion,
    installed === null ? (database === null ? "-" : red("not installed")) : agentCell(reading, red),
    database === null ? "-" : `${database.clockSkewMs > 0 ? "+" : ""}${database.clockSkewMs} ms`,
    installed === null ? "-" : installed.tables,
    quarantined === undefined ? "-" : grouped(quarantined),
  ];
};

const agentCell = (reading: RegionReading, red: (text: string) => Cell): Cell => {
  if (installedOf(reading)?.agentActive !== true) {
    return red("none");
  }
  // The endpoint may be answered by a standby, while another agent holds the lock.
  return "error" in reading.agent ? "active" : `active ${reading.agent.version}`;
};

const linkRow = (link: LinkReading, color: Colors): readonly Cell[] => {
  const well = link.state === "streaming" || link.state === "connected";
  return [
    `${link.source} > ${link.target}`,
    { text: link.state, paint: (text) => (well ? text : color.yellow(text)) },
    link.lagSeconds === null ? "-" : `${link.lagIsEstimate ? "~" : ""}${duration(link.lagSeconds)}`,
    link.lagBytes === null ? "-" : bytes(link.lagBytes),
    link.roundTripMs === null || link.roundTripMs === 0 ? "-" : `${Math.round(link.roundTripMs)} ms`,
    link.retainedBytes === null ? "-" : bytes(link.retainedBytes),
  ];
};

const checkLines = (check: Check, color: Colors): string[] => {
  const subject = check.subject === null ? "" : `${check.subject}: `;
  const line = `${paintOf(check.severity, color)(checkWords[check.severity])}  ${check.name.padEnd(12)}  ${printable(subject + check.message)}`;
  return check.severity === "ok" || check.remedy === null
    ? [line]
    : [line, `${" ".repeat(24)}${color.dim(check.remedy)}`];
};
