import { printable, type Colors } from "./output.ts";
import type { Finding } from "./services.ts";

export type Severity = Finding["severity"];

const order = ["critical", "warning", "ok"] as const satisfies readonly Severity[];

/** The worst severity among the findings; ok if there are none. */
export const worstSeverity = (findings: readonly Finding[]): Severity =>
  order.find((severity) => findings.some((finding) => finding.severity === severity)) ?? "ok";

const painted = (severity: Severity, color: Colors): string => {
  switch (severity) {
    case "critical":
      return color.red("critical");
    case "warning":
      return color.yellow("warning ");
    case "ok":
      return color.green("ok      ");
  }
};

const findingText = (finding: Finding, color: Colors): string => {
  const { severity, object, message, remedy, code } = finding;
  const subject = object === "" ? "" : `${color.bold(printable(object))}: `;
  const tail = severity === "ok" ? "" : ` ${color.dim(`[${code}]`)}`;
  const lines = [`  ${painted(severity, color)}  ${subject}${printable(message)}${tail}`];
  if (severity !== "ok" && remedy !== "") {
    lines.push(
      ...printable(remedy)
        .split("\n")
        .map((line) => `            ${color.cyan(line)}`),
    );
  }
  return lines.join("\n");
};

/** The findings by region, the worst first; of those that are ok only what they are about. */
export const findingsText = (findings: readonly Finding[], color: Colors): string => {
  const byRegion = Map.groupBy(findings, (finding) => finding.region);
  const blocks = [...byRegion].map(([region, own]) => {
    const sorted = own.toSorted((a, b) => order.indexOf(a.severity) - order.indexOf(b.severity));
    return [color.bold(printable(region)), ...sorted.map((finding) => findingText(finding, color))].join(
      "\n",
    );
  });
  return blocks.join("\n\n");
};

/** How many findings of which severity, as part of a sentence. */
export const countText = (findings: readonly Finding[]): string =>
  order
    .map((severity) => ({ severity, count: findings.filter((one) => one.severity === severity).length }))
    .filter(({ count }) => count > 0)
    .map(({ severity, count }) => `${count} ${severity}`)
    .join(", ");
