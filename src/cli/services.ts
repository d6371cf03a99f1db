import type { Topology } from "../../regions/topology.ts";

/** One thing that `coregent check` looked at in one region. */
export interface Finding {
  readonly region: string;
  readonly severity: "ok" | "warning" | "critical";
  readonly code: string;
  /** The setting, role, table or column it is about. */
  readonly object: string;
  readonly message: string;
  /** What to do, often SQL to run; empty for `ok`. */
  readonly remedy: string;
}

export interface ClusterOptions {
  readonly signal: AbortSignal;
  /** Told what is being done, for a progress line. */
  readonly onProgress: (text: string) => void;
}

/** What was done in one region: a line for each change, none if everything was there already. */
export interface RegionReport {
  readonly region: string;
  readonly changes: readonly string[];
}

export interface InitReport {
  readonly regions: readonly RegionReport[];
  /** What is in the way or worth knowing. If any is critical, nothing was changed anywhere. */
  readonly findings: readonly Finding[];
}

export interface UninstallReport {
  readonly regions: readonly RegionReport[];
}

/** The work behind the commands that prepare databases; the composition root puts them in. */
export interface ClusterServices {
  readonly initCluster: (topology: Topology, options: ClusterOptions) => Promise<InitReport>;
  readonly uninstallCluster: (topology: Topology, options: ClusterOptions) => Promise<UninstallReport>;
  readonly checkCluster: (topology: Topology, options: ClusterOptions) => Promise<readonly Finding[]>;
}
