import type { TestRegion } from "../../src/testing/index.ts";

/** Whether regions hold the same, row by row with their `cg_` columns, by plain SQL. Knows nothing of how we merge or verify. */

/** Of one region: relation -> key -> the whole row as text. */
export type Holding = ReadonlyMap<string, ReadonlyMap<string, string>>;

/** What differs, a line each. Pure. */
export const differencesOf = (holdings: ReadonlyMap<string, Holding>): string[] => {
  const relations = new Set([...holdings.values()].flatMap((holding) => [...holding.keys()]));
  const lines: string[] = [];
  for (const relation of relations) {
    const sides = [...holdings].map(([region, holding]) => ({ region, rows: holding.get(relation) }));
    const keys = new Set(sides.flatMap(({ rows }) => [...(rows?.keys() ?? [])]));
    const differing = [...keys].filter((key) => new Set(sides.map(({ rows }) => rows?.get(key))).size > 1);
    for (const key of differing.slice(0, 3)) {
      const shown = sides.map(
        ({ region, rows }) => `\n      ${region}: ${shorten(rows?.get(key) ?? "not there")}`,
      );
      lines.push(`${relation} ${key} differs:${shown.join("")}`);
    }
    if (differing.length > 3) lines.push(`${relation}: ${differing.length} keys differ in all`);
  }
  return lines;
};

const shorten = (text: string): string =>
  text.replaceAll(/[0-9a-f]{64,}/g, (digits) => `${digits.slice(0, 16)}...(${digits.length})`);

interface TableRow {
  readonly schema_name: string;
  readonly table_name: string;
  readonly tombstone: string;
  readonly key_columns: readonly string[];
  readonly owner_column: string | null;
}

const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`;

/** Each query gives `relation`, `key`, `row`. */
const holdingSql = (table: TableRow): string[] => {
  const relation = `${quoted(table.schema_name)}.${quoted(table.table_name)}`;
  const dead = `coregent.${quoted(table.tombstone)}`;
  const key = (alias: string): string =>
    table.key_columns.map((column) => `${alias}.${quoted(column)}`).join(", ");
  const rank = (alias: string): string =>
    table.owner_column === null ? `${alias}.cg_version` : `(${alias}.cg_base, ${alias}.cg_version)`;
  const same = `(${key("t")}) = (${key("d")})`;
  return [
    `SELECT '${relation}' AS relation, ROW(${key("t")})::text AS key, to_jsonb(t)::text AS row FROM ${relation} AS t`,
    // Which of the tombstones below a row came this far is chance: a batch brings the highest state of each key.
    `SELECT '${dead}' AS relation, ROW(${key("d")})::text AS key, to_jsonb(d)::text AS row FROM ${dead} AS d
      WHERE NOT EXISTS (SELECT FROM ${relation} AS t WHERE ${same} AND ${rank("t")} > ${rank("d")})`,
    // These lines are never alike in two regions, and so are never overlooked.
    `SELECT '${relation} not swept' AS relation, ROW(${key("t")})::text AS key, random()::text AS row
       FROM ${relation} AS t JOIN ${dead} AS d ON ${same} WHERE ${rank("d")} > ${rank("t")}`,
  ];
};

const unfinishedSql = [
  `SELECT 'still copied' AS relation, format('%s from %s', table_name, origin) AS key, concat(reason, ' ', random()) AS row FROM coregent.table_sync`,
  `SELECT 'quarantine' AS relation, concat(table_name, ' ', key) AS key, concat(reason, ' ', random()) AS row FROM coregent.quarantine`,
];

export const readHolding = async (region: TestRegion): Promise<Holding> => {
  const holding = new Map<string, Map<string, string>>();
  const tables = await region.sql<Record<string, unknown> & TableRow>(
    "SELECT schema_name, table_name, tombstone, key_columns, owner_column FROM coregent.replicated_table ORDER BY name",
  );
  for (const sql of [...tables.flatMap(holdingSql), ...unfinishedSql]) {
    for (const row of await region.sql<{ relation: string; key: string; row: string }>(sql)) {
      const rows = holding.get(row.relation) ?? new Map<string, string>();
      holding.set(row.relation, rows.set(row.key, row.row));
    }
  }
  return holding;
};

/** A line for each difference; none: the regions hold the same, and nothing is unfinished in any. */
export const regionsDiffer = async (regions: readonly TestRegion[]): Promise<string[]> => {
  const holdings = await Promise.all(regions.map(readHolding));
  return differencesOf(new Map(regions.map(({ name }, i) => [name, holdings[i] ?? new Map()])));
};
