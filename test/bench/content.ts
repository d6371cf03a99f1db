import { identifier } from "../../src/postgres/identifiers.ts";
import type { BenchServer } from "./bench-server.ts";
import { withClient } from "./sql.ts";

/**
 * Rows and a hash of each table that does not depend on their order, over the application's own columns: equal for a
 * plain table and for one that Coregent has prepared.
 */
export const contentOf = (
  server: BenchServer,
  database: string,
  tables: readonly string[],
): Promise<string> =>
  withClient(server.url(database), async (client) => {
    const texts: string[] = [];
    for (const table of tables) {
      const { rows } = await client.query<{ columns: string[] }>(
        `SELECT array_agg(attname::text ORDER BY attnum) AS columns FROM pg_attribute
          WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND NOT starts_with(attname, 'cg_')`,
        [table],
      );
      const columns = (rows[0]?.columns ?? []).map(identifier).join(", ");
      const content = await client.query<{ text: string }>(
        `SELECT format('%s rows, hash %s', count(*), coalesce(sum(hashtextextended(ROW(${columns})::text, 0)::numeric), 0)) AS text
           FROM ${identifier(table)}`,
      );
      texts.push(`${table}: ${content.rows[0]?.text}`);
    }
    return texts.join("; ");
  });
