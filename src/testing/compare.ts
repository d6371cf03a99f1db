import { Client } from "pg";
import { connect } from "../postgres/client.ts";
import { identifier, qualified } from "../postgres/identifiers.ts";
import type { TestRegion } from "./region.ts";

/** What is asked of a region here. */
type Compared = Pick<TestRegion, "name" | "url">;

/**
 * Whether regions hold the same, told in the plainest way: every row of every replicated table, as text. It knows
 * nothing of how `coregent verify` does it, so that each can be held against the other.
 */

/** Of one region: what keeps it from being settled, and for each table a hash of its rows. */
interface Holding {
  readonly region: string;
  readonly unsettled: readonly string[];
  readonly tables: ReadonlyMap<string, Table>;
}

interface Table {
  readonly rows: number;
  readonly hash: string;
  readonly key: readonly string[];
  /** Its name in SQL. */
  readonly relation: string;
  /** SQL: the row as text, columns in the order of their names. */
  readonly rowText: string;
}

interface TableRow {
  readonly name: string;
  readonly schema_name: string;
  readonly table_name: string;
  readonly key_columns: string[];
  readonly columns: string[];
}

const tablesSql = `
SELECT r.name, r.schema_name, r.table_name, r.key_columns,
       array_agg(a.attname::text ORDER BY a.attname COLLATE "C") AS columns
  FROM coregent.replicated_table r
  JOIN pg_namespace n ON n.nspname = r.schema_name
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = r.table_name
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
 GROUP BY r.name ORDER BY r.name`;

const unsettledSql = `
SELECT format('%s is being copied from region %s (%s)', table_name, origin, coalesce(reason, kind)) AS line
  FROM coregent.table_sync
UNION ALL
SELECT format('%s %s is set aside: %s', table_name, key, reason) FROM coregent.quarantine
LIMIT 20`;

const holdingOf = async (region: Compared, session: Client): Promise<Holding> => {
  const tables = new Map<string, Table>();
  const { rows } = await session.query<TableRow>(tablesSql);
  for (const row of rows) {
    const rowText = `ROW(${row.columns.map((column) => `t.${identifier(column)}::text`).join(", ")})::text`;
    const relation = qualified(row.schema_name, row.table_name);
    const sums = await session.query<{ rows: string; hash: string | null }>(
      `SELECT count(*) AS rows, md5(string_agg(h, '' ORDER BY h)) AS hash
         FROM (SELECT md5(${rowText}) AS h FROM ${relation} t) AS hashes`,
    );
    const [sum] = sums.rows;
    const key = row.key_columns;
    tables.set(row.name, { rows: Number(sum?.rows), hash: sum?.hash ?? "", key, relation, rowText });
  }
  const unsettled = await session.query<{ line: string }>(unsettledSql);
  return { region: region.name, unsettled: unsettled.rows.map(({ line }) => line), tables };
};

const maxRowsShown = 5;
const maxRowsFetched = 100_000;

const rowsOf = async (session: Client, table: Table): Promise<Map<string, string>> => {
  const key = table.key.map((column) => `t.${identifier(column)}::text`).join(", ");
  const { rows } = await session.query<{ k: string; r: string }>(
    `SELECT ROW(${key})::text AS k, ${table.rowText} AS r FROM ${table.relation} t LIMIT ${maxRowsFetched}`,
  );
  return new Map(rows.map(({ k, r }) => [k, r]));
};

const differingRows = async (
  name: string,
  sides: readonly { readonly region: string; readonly session: Client; readonly table: Table }[],
): Promise<string[]> => {
  const held = await Promise.all(sides.map(({ session, table }) => rowsOf(session, table)));
  const keys = [...new Set(held.flatMap((rows) => [...rows.keys()]))].sort();
  const differing = keys.filter((key) => new Set(held.map((rows) => rows.get(key))).size > 1);
  const lines = differing
    .slice(0, maxRowsShown)
    .flatMap((key) => [
      `  ${name} ${key}`,
      ...sides.map(({ region }, i) => `    ${region}: ${held[i]?.get(key) ?? "no row"}`),
    ]);
  return differing.length > maxRowsShown
    ? [...lines, `  ... and ${differing.length - maxRowsShown} more keys of ${name}`]
    : lines;
};

/** What differs between these regions or is unfinished in one of them, a line each; empty: they are equal and settled. */
export const differences = async (regions: readonly Compared[]): Promise<string[]> => {
  const opened = await Promise.allSettled(
    regions.map((region) =>
      connect(region.url, { applicationName: "coregent compare", connectTimeoutMs: 2_000 }),
    ),
  );
  const sessions = opened.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
  try {
    const away = opened.flatMap((result, i) =>
      result.status === "rejected"
        ? [`region ${regions[i]?.name} cannot be reached: ${String(result.reason)}`]
        : [],
    );
    if (away.length > 0) return away;
    const holdings = await Promise.all(
      regions.map((region, i) => holdingOf(region, sessions[i] ?? new Client())),
    );
    const lines = holdings.flatMap(({ region, unsettled }) =>
      unsettled.map((line) => `region ${region}: ${line}`),
    );
    const names = new Set(holdings.flatMap(({ tables }) => [...tables.keys()]));
    for (const name of names) {
      const found = holdings.map(({ tables }) => tables.get(name));
      const sides = holdings.flatMap(({ region, tables }, i) => {
        const table = tables.get(name);
        const session = sessions[i];
        return table && session ? [{ region, session, table }] : [];
      });
      if (sides.length < regions.length) {
        const missing = holdings.filter((_, i) => found[i] === undefined).map(({ region }) => region);
        lines.push(`${name} is not replicated in ${missing.join(", ")}`);
      } else if (new Set(found.map((table) => table?.hash)).size > 1) {
        const counts = sides.map(({ region, table }) => `${region} ${table.rows} rows`).join(", ");
        lines.push(`${name} differs: ${counts}`, ...(await differingRows(name, sides)));
      }
    }
    return lines;
  } finally {
    await Promise.all(sessions.map((session) => session.end().catch(() => undefined)));
  }
};
