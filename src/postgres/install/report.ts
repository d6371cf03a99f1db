export interface TableChange {
  readonly name: string;
  readonly change: "taken up" | "taken up anew" | "repaired" | "released";
  /** What was not as it should be, for a repair. */
  readonly details: readonly string[];
}

/** What `installRegion` did; all empty: the region was as it should be. */
export interface InstallReport {
  readonly region: string;
  /** Steps of our own schema that were applied. */
  readonly migrations: readonly number[];
  readonly functionsReplaced: boolean;
  readonly tables: readonly TableChange[];
  /** Tables that needed nothing. */
  readonly unchanged: readonly string[];
}

const schemaChanges = (versions: readonly number[]): string[] => {
  if (versions.includes(1)) return ["schema coregent made"];
  return versions.map((version) => `schema coregent brought to version ${version}`);
};

/** A line for each thing that was done; none if nothing was to be done. */
export const changesOf = (report: InstallReport): string[] => [
  ...schemaChanges(report.migrations),
  ...(report.functionsReplaced && !report.migrations.includes(1) ? ["functions replaced"] : []),
  ...report.tables.map(({ name, change, details }) =>
    details.length === 0 ? `${name} ${change}` : `${name} ${change}: ${details.join(", ")}`,
  ),
];
