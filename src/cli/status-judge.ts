import type { Topology } from "../../regions/topology.ts";
import type { Severity } from "./findings.ts";
import { allChecks } from "./status-checks.ts";
import { installedOf, linkReportOf, pairs, slotOf, type Check, type LinkReading } from "./status-facts.ts";
import type { RegionReading, SlotReading } from "./status-read.ts";
import { duration } from "./status-text.ts";

export interface StatusReport {
  readonly cluster: string;
  readonly at: string;
  readonly severity: Severity;
  readonly verdict: string;
  readonly regions: readonly RegionReading[];
  readonly links: readonly LinkReading[];
  readonly checks: readonly Check[];
}

/** Judges what was read; a pure function of it. `atMs` is when it was read. */
export const judge = (topology: Topology, regions: readonly RegionReading[], atMs: number): StatusReport => {
  const links = readLinks(topology.cluster, regions);
  const checks = allChecks(topology, regions, links);
  const severity = worst(checks);
  return {
    cluster: topology.cluster,
    at: new Date(atMs).toISOString(),
    severity,
    verdict: verdictOf(severity, checks, links),
    regions,
    links,
    checks,
  };
};

const readLinks = (cluster: string, regions: readonly RegionReading[]): LinkReading[] =>
  pairs(regions).map(({ source, target }) => {
    const slot = slotOf(cluster, source, target);
    const report = linkReportOf(target, source.region);
    const progress = installedOf(target)?.progress.find((entry) => entry.origin === source.id);
    // All of it confirmed: nothing can be outstanding, however old the progress is.
    const estimate = slot?.lagBytes === 0 ? 0 : (progress?.ageSeconds ?? null);
    return {
      source: source.region,
      target: target.region,
      state: report?.state ?? stateByDatabases(slot, source),
      lagBytes: slot?.lagBytes ?? null,
      retainedBytes: slot?.retainedBytes ?? null,
      lagSeconds: report?.lagSeconds ?? estimate,
      lagIsEstimate: report === undefined && estimate !== null,
      roundTripMs: report?.roundTripMs ?? null,
    };
  });

const stateByDatabases = (slot: SlotReading | undefined, source: RegionReading): string => {
  if (installedOf(source) === null) {
    return "unknown";
  }
  if (slot === undefined) {
    return "no slot";
  }
  return slot.walStatus === "lost" ? "slot lost" : slot.active ? "connected" : "not connected";
};

const worst = (checks: readonly Check[]): Severity => {
  const severities = new Set(checks.map((check) => check.severity));
  return severities.has("critical") ? "critical" : severities.has("warning") ? "warning" : "ok";
};

const verdictOf = (severity: Severity, checks: readonly Check[], links: readonly LinkReading[]): string => {
  if (severity === "ok") {
    const lag = Math.max(0, ...links.map((link) => link.lagSeconds ?? 0));
    return `all regions replicate; the slowest link is ${duration(lag)} behind`;
  }
  const first = checks.find((check) => check.severity === severity);
  const more = checks.filter((check) => check.severity !== "ok").length - 1;
  const subject = first?.subject === null || first === undefined ? "" : `${first.subject} `;
  return `${subject}${first?.message ?? ""}${more > 0 ? `, and ${more} more` : ""}`;
};
