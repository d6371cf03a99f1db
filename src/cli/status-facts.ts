import type { LinkReport } from "../http/report.ts";
import type { Severity } from "./findings.ts";
import {
  slotName,
  type DatabaseReading,
  type InstalledReading,
  type RegionReading,
  type SlotReading,
} from "./status-read.ts";

/** One thing looked at. `subject` is a region or a link (`moldova > argentina`), or null for the cluster. */
export interface Check {
  readonly name: string;
  readonly severity: Severity;
  readonly subject: string | null;
  readonly message: string;
  /** What to do about it; null when it is well. */
  readonly remedy: string | null;
}

/** One direction: the changes of `source` as they reach `target`. */
export interface LinkReading {
  readonly source: string;
  readonly target: string;
  /** The target's agent's word for it; without its answer what the databases show. */
  readonly state: string;
  /** Null: the source cannot be reached, or has no slot for the target. */
  readonly lagBytes: number | null;
  readonly retainedBytes: number | null;
  /** Null: not known. */
  readonly lagSeconds: number | null;
  /** True: from the age of the recorded progress, so it may be up to some ten seconds too high. */
  readonly lagIsEstimate: boolean;
  readonly roundTripMs: number | null;
}

export const databaseOf = (reading: RegionReading): DatabaseReading | null =>
  "error" in reading.database ? null : reading.database;

export const installedOf = (reading: RegionReading): InstalledReading | null =>
  databaseOf(reading)?.installed ?? null;

export const linkReportOf = (target: RegionReading, source: string): LinkReport | undefined =>
  "error" in target.agent ? undefined : target.agent.links.find((link) => link.peer === source);

export const slotOf = (
  cluster: string,
  source: RegionReading,
  target: RegionReading,
): SlotReading | undefined =>
  installedOf(source)?.slots.find((slot) => slot.name === slotName(cluster, source.id, target.id));

export const pairs = (
  regions: readonly RegionReading[],
): { source: RegionReading; target: RegionReading }[] =>
  regions.flatMap((source) =>
    regions.filter((target) => target !== source).map((target) => ({ source, target })),
  );
