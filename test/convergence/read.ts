import type { TestRegion } from "../../src/testing/index.ts";
import type { LogEntry } from "./history.ts";
import type { Table } from "./tables.ts";
import type { Tombstones } from "./writers.ts";

export const tombstonesOf = async (region: TestRegion | undefined): Promise<Tombstones> => {
  const rows = await region?.sql<{ table_name: string; tombstone: string }>(
    "SELECT table_name, tombstone FROM coregent.replicated_table WHERE schema_name = 'public'",
  );
  return new Map(rows?.map(({ table_name, tombstone }) => [table_name, `"${tombstone}"`]));
};

/** Of these tables, and of keys with a part that begins so. */
export const readLog = async (
  region: TestRegion,
  { tables, prefix }: { readonly tables: readonly Table[]; readonly prefix: string },
): Promise<LogEntry[]> => {
  const rows = await region.sql<{
    table_name: string;
    key: string;
    loser_version: string;
    type: string;
    loser_row: Record<string, string | null> | null;
  }>("SELECT table_name, key, loser_version, type, loser_row FROM coregent.conflict");
  return rows.flatMap(({ table_name, key, loser_version, type, loser_row }) => {
    const table = tables.find(({ name }) => `public.${name}` === table_name);
    const parts = JSON.parse(key) as readonly string[];
    if (table === undefined || !parts.some((part) => part.startsWith(prefix))) return [];
    const content =
      loser_row === null
        ? null
        : Object.fromEntries(table.content.map((column) => [column, loser_row[column] ?? null]));
    return [{ table: table.name, key, loser: BigInt(loser_version), type, content }];
  });
};
