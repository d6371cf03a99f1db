import { readTables } from "../postgres/catalog.ts";
import type { ReplicatedTable } from "../postgres/table.ts";
import type { MergeSession } from "./merge-session.ts";
import { type Domains, readDomains } from "./relation.ts";
import { readTypesWithoutBinary } from "./slot.ts";
import type { SourceSession } from "./source-session.ts";
import type { StateFormat } from "./states.ts";

/** What this region's catalog says about the tables that a link merges into. */
export interface Target {
  readonly tables: readonly ReplicatedTable[];
  readonly domains: Domains;
  /** Text if a type of any table, here or at the source, has no binary form. */
  readonly format: StateFormat;
}

export const readTarget = async (session: MergeSession, source: SourceSession): Promise<Target> => {
  const tables = await readTables(session.client);
  const domains = await readDomains(session.client);
  const without = [
    ...(await readTypesWithoutBinary(session.client)),
    ...(await readTypesWithoutBinary(source.client)),
  ];
  return { tables, domains, format: without.length === 0 ? "binary" : "text" };
};
