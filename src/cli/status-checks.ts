import type { Topology } from "../../regions/topology.ts";
import type { Severity } from "./findings.ts";
import {
  databaseOf,
  installedOf,
  linkReportOf,
  pairs,
  slotOf,
  type Check,
  type LinkReading,
} from "./status-facts.ts";
import { slotName, type RegionReading } from "./status-read.ts";
import { bytes, duration, plural } from "./status-text.ts";

/** Beyond these a value is a warning, or critical. */
export const bounds = {
  lagSeconds: { warning: 60, critical: 600 },
  retainedBytes: { warning: 1024 ** 3, critical: 10 * 1024 ** 3 },
  clockSkewMs: { warning: 1000, critical: 60_000 },
} as const;

/** Everything that is looked at, in the order in which it is shown. */
export const allChecks = (
  topology: Topology,
  regions: readonly RegionReading[],
  links: readonly LinkReading[],
): readonly Check[] => {
  const answering = regions.filter((region) => databaseOf(region) !== null).length;
  const reached = checkReached(regions);
  if (answering === 0) {
    return reached;
  }
  const checks = [
    ...checkInstalled(topology, regions),
    ...checkDrained(regions),
    ...checkAgents(regions),
    ...checkSlots(topology.cluster, regions),
    ...checkLinks(links, regions),
    ...checkSyncs(regions),
    ...checkQuarantine(regions),
    ...checkClocks(regions),
    conflictCheck(regions),
  ];
  return [...reached, ...(answering === regions.length ? checks : checks.map(ofThoseThatAnswer))];
};

/** What is well is known of the regions that answer, and of no other. */
const ofThoseThatAnswer = (check: Check): Check =>
  check.severity === "ok" && check.subject === null
    ? { ...check, message: `${check.message} (of those that answer)` }
    : check;

const ok = (name: string, message: string): Check => ({
  name,
  severity: "ok",
  subject: null,
  message,
  remedy: null,
});

/** The failures, or one line that says that all is well. */
const orOk = (failures: readonly Check[], allWell: Check): readonly Check[] =>
  failures.length > 0 ? failures : [allWell];

const checkReached = (regions: readonly RegionReading[]): readonly Check[] =>
  orOk(
    regions.flatMap((region): Check[] =>
      "error" in region.database
        ? [
            {
              name: "databases",
              severity: "critical",
              subject: region.region,
              message: `cannot be reached: ${region.database.error}`,
              remedy:
                "See that the server runs and that this machine may reach it; the other regions go on meanwhile.",
            },
          ]
        : [],
    ),
    ok("databases", `all ${regions.length} regions answer`),
  );

const checkInstalled = (topology: Topology, regions: readonly RegionReading[]): readonly Check[] => {
  const reached = regions.filter((region) => databaseOf(region) !== null);
  const failures = reached.flatMap((region): Check[] => {
    const installed = installedOf(region);
    const common = { name: "installation", severity: "critical", subject: region.region } as const;
    if (installed === null) {
      return [
        { ...common, message: "Coregent is not installed in this database", remedy: "Run `coregent init`." },
      ];
    }
    const found = `${installed.cluster}, region ${installed.regionName}, id ${installed.regionId}`;
    const wanted = `${topology.cluster}, region ${region.region}, id ${region.id}`;
    return found === wanted
      ? []
      : [
          {
            ...common,
            message: `the database says it is ${found}, the configuration ${wanted}`,
            remedy: "Correct the URL or the id in the configuration; ids are never given to another region.",
          },
        ];
  });
  const tables = new Set(reached.map((region) => installedOf(region)?.tables));
  if (failures.length === 0 && tables.size > 1) {
    const counts = reached.map((region) => `${region.region} ${installedOf(region)?.tables ?? 0}`).join(", ");
    failures.push({
      name: "installation",
      severity: "warning",
      subject: null,
      message: `the regions replicate different numbers of tables: ${counts}`,
      remedy: "Create the missing tables, then run `coregent init` again.",
    });
  }
  const count = [...tables][0] ?? 0;
  return orOk(failures, ok("installation", `${plural(count, "table")} replicated in every region`));
};

/** Nothing where no region is: it is a wish of somebody, and worth a line only so that it is not forgotten. */
const checkDrained = (regions: readonly RegionReading[]): readonly Check[] =>
  regions.flatMap((region): Check[] => {
    const since = installedOf(region)?.drainedAt ?? null;
    return since === null
      ? []
      : [
          {
            name: "drained",
            severity: "warning",
            subject: region.region,
            message: `takes no writes from endpoints since ${since}`,
            remedy: `Once its maintenance is over: coregent resume ${region.region}.`,
          },
        ];
  });

const checkAgents = (regions: readonly RegionReading[]): readonly Check[] => {
  const failures = regions.flatMap((region): Check[] => {
    const installed = installedOf(region);
    if (installed !== null && !installed.agentActive) {
      return [
        {
          name: "agents",
          severity: "critical",
          subject: region.region,
          message: "no agent works for this region, so nothing reaches it",
          remedy: `Run \`coregent agent --region ${region.region}\` and see its log.`,
        },
      ];
    }
    if (installed !== null && "error" in region.agent) {
      return [
        {
          name: "agents",
          severity: "ok",
          subject: region.region,
          message: `works; its endpoint does not answer here (${region.agent.error}), so lag is estimated`,
          remedy: null,
        },
      ];
    }
    return [];
  });
  return orOk(failures, ok("agents", "one works for every region"));
};

const checkSlots = (cluster: string, regions: readonly RegionReading[]): readonly Check[] => {
  const failures = pairs(regions).flatMap(({ source, target }): Check[] => {
    if (installedOf(source) === null) {
      return [];
    }
    const slot = slotOf(cluster, source, target);
    const common = { name: "slots", subject: `${source.region} > ${target.region}` };
    const remedy = "The target's agent makes it anew and resyncs by itself; see its log if it does not.";
    if (slot === undefined) {
      return [{ ...common, severity: "critical", message: `has no slot at ${source.region}`, remedy }];
    }
    if (slot.walStatus === "lost" || slot.invalidationReason !== null) {
      const reason = slot.invalidationReason ?? "WAL it needed is gone";
      return [{ ...common, severity: "critical", message: `the slot is lost (${reason})`, remedy }];
    }
    const severity = severityOf(slot.retainedBytes, bounds.retainedBytes);
    if (severity === "ok" && slot.walStatus !== "unreserved") {
      return [];
    }
    return [
      {
        ...common,
        severity: severity === "ok" ? "warning" : severity,
        message: `${source.region} keeps ${bytes(slot.retainedBytes)} of WAL for it (${slot.walStatus ?? "unknown"})`,
        remedy: `Bring ${target.region} back, or set max_slot_wal_keep_size: the slot then goes before the disk is full.`,
      },
    ];
  });
  failures.push(...strayedSlots(cluster, regions));
  return orOk(failures, ok("slots", "every link has its slot, and none keeps much WAL"));
};

/** A slot that no region of the configuration reads keeps WAL until the disk is full. */
const strayedSlots = (cluster: string, regions: readonly RegionReading[]): readonly Check[] =>
  regions.flatMap((source) => {
    const known = new Set(regions.map((target) => slotName(cluster, source.id, target.id)));
    const slots = installedOf(source)?.slots ?? [];
    return slots
      .filter((slot) => !known.has(slot.name))
      .map((slot) => ({
        name: "slots",
        severity: "warning",
        subject: source.region,
        message: `the slot ${slot.name} is of no region here and keeps ${bytes(slot.retainedBytes)} of WAL`,
        remedy: `If that region is gone for good: SELECT pg_drop_replication_slot('${slot.name}')`,
      }));
  });

const checkLinks = (links: readonly LinkReading[], regions: readonly RegionReading[]): readonly Check[] => {
  const targets = new Map(regions.map((region) => [region.region, region]));
  const failures = links.flatMap((link): Check[] => {
    const target = targets.get(link.target);
    const report = target === undefined ? undefined : linkReportOf(target, link.source);
    const common = { name: "links", subject: `${link.source} > ${link.target}` };
    const why = report?.lastError == null ? "" : `: ${report.lastError}`;
    if (link.state === "stopped") {
      const remedy = `Settle the cause; then restart the agent of ${link.target}.`;
      return [{ ...common, severity: "critical", message: `has stopped${why}`, remedy }];
    }
    const severity = severityOf(link.lagSeconds ?? 0, bounds.lagSeconds);
    const away = ["connecting", "waiting", "not connected"].includes(link.state);
    if (severity === "ok" && !away) {
      return [];
    }
    const behind = link.lagSeconds === null ? "" : `, ${duration(link.lagSeconds)} behind`;
    return [
      {
        ...common,
        severity: severity === "ok" ? "warning" : severity,
        message: `${link.state}${behind}${away ? why : ""}`,
        remedy: `Look at the network between the two and at the log of ${link.target}'s agent; it tries again by itself.`,
      },
    ];
  });
  return orOk(failures, ok("links", "every link is up and keeps up"));
};

const checkSyncs = (regions: readonly RegionReading[]): readonly Check[] => {
  const names = new Map(regions.map((region) => [region.id, region.region]));
  const failures = regions.flatMap((target) =>
    (installedOf(target)?.syncs ?? []).map((sync): Check => {
      const rows = sync.rowsTotal === null ? "" : `, ${sync.rowsDone} of ${plural(sync.rowsTotal, "row")}`;
      return {
        name: "resync",
        severity: "warning",
        subject: `${names.get(sync.origin) ?? `region ${sync.origin}`} > ${target.region}`,
        message:
          sync.misfit === null
            ? `${sync.table} is being copied (${sync.reason}${rows})`
            : `${sync.table} does not fit: ${sync.misfit}`,
        remedy:
          sync.misfit === null
            ? "It ends by itself."
            : "Make the table alike in both regions, then run `coregent init`; what was held back is copied then.",
      };
    }),
  );
  return orOk(failures, ok("resync", "none under way, and every table fits"));
};

const checkQuarantine = (regions: readonly RegionReading[]): readonly Check[] => {
  const failures = regions.flatMap((region) =>
    (installedOf(region)?.quarantine ?? []).map((entry): Check => ({
      name: "quarantine",
      severity: "warning",
      subject: region.region,
      message:
        `${plural(entry.rows, "row")} of ${entry.table} ${entry.rows === 1 ? "does" : "do"} not fit, ` +
        `the first for ${duration(entry.oldestSeconds)}: ${entry.reason ?? "no reason recorded"}`,
      remedy:
        "Change the row or the table so that it fits (table coregent.quarantine); it is tried again by itself.",
    })),
  );
  return orOk(failures, ok("quarantine", "empty in every region"));
};

/** Clocks are compared with each other: this machine's own is no better than theirs. */
const checkClocks = (regions: readonly RegionReading[]): readonly Check[] => {
  const skews = regions
    .flatMap((region) => {
      const database = databaseOf(region);
      return database === null ? [] : [{ region: region.region, ms: database.clockSkewMs }];
    })
    .toSorted((a, b) => a.ms - b.ms);
  const [lowest, highest] = [skews[0], skews.at(-1)];
  if (lowest === undefined || highest === undefined || lowest === highest) {
    return [];
  }
  const apartMs = highest.ms - lowest.ms;
  const severity = severityOf(apartMs, bounds.clockSkewMs);
  if (severity === "ok") {
    return [ok("clocks", `within ${apartMs} ms of each other`)];
  }
  return [
    {
      name: "clocks",
      severity,
      subject: null,
      message: `${highest.region} is ${duration(apartMs / 1000)} ahead of ${lowest.region}`,
      remedy:
        "Look at the time service of both. No write is lost by it, but the later of two may not be who wrote last.",
    },
  ];
};

const conflictCheck = (regions: readonly RegionReading[]): Check => {
  // The log is replicated: the fullest region knows all that the others do.
  const logs = regions.map((region) => installedOf(region)?.conflicts ?? {});
  const total = (log: Readonly<Record<string, number>>): number =>
    Object.values(log).reduce((a, b) => a + b, 0);
  const fullest = logs.toSorted((a, b) => total(b) - total(a))[0] ?? {};
  const types = Object.entries(fullest).map(([type, count]) => `${type} ${count}`);
  return ok(
    "conflicts",
    types.length === 0 ? "none in the log" : `${total(fullest)} in the log (${types.join(", ")}), none lost`,
  );
};

const severityOf = (
  value: number,
  bound: { readonly warning: number; readonly critical: number },
): Severity => (value >= bound.critical ? "critical" : value >= bound.warning ? "warning" : "ok");
