import { rename, writeFile } from "node:fs/promises";
import { stringify } from "yaml";
import type { ClusterOptions } from "./options.ts";

/** A region as one configuration file sees it: others reach its database on another way than it does itself. */
export interface ConfiguredRegion {
  readonly name: string;
  readonly id: number;
  readonly postgres: string;
  readonly api: string;
  /** HOST:PORT where PostgreSQL clients are let in; without it, nowhere. */
  readonly entrance?: string;
}

/** The text of a coregent.yaml. */
export const configText = (options: ClusterOptions, regions: readonly ConfiguredRegion[]): string =>
  stringify({
    cluster: options.cluster ?? "test",
    // Somewhere on the equator, far from each other.
    regions: regions.map((region) => ({
      ...region,
      latitude: 0,
      longitude: ((region.id * 50) % 360) - 180,
    })),
    ...(options.schemas ? { schemas: [...options.schemas] } : {}),
    ...(options.writer ? { writer: { ...options.writer } } : {}),
    ...(options.outages === undefined ? {} : { outages: { allowed: options.outages } }),
    endpoint: { stopPauseMs: 0, ...options.endpoint },
    ...(options.tables ? { tables: options.tables.map((table) => ({ ...table })) } : {}),
  });

/** Whole or not at all, for those who read it meanwhile. */
export const writeConfig = async (file: string, text: string): Promise<void> => {
  await writeFile(`${file}.new`, text, { mode: 0o600 });
  await rename(`${file}.new`, file);
};
