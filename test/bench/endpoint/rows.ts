import { createHash } from "node:crypto";
import type { BenchServer } from "../bench-server.ts";
import { itemColumns, itemValues } from "../drains/items.ts";
import { withClient } from "../sql.ts";

/** Row `n` of `items` as an application has it, the same as `itemValues` makes in SQL. */
export interface Item {
  readonly id: string;
  readonly name: string;
  readonly note: string;
  readonly quantity: number;
  readonly price: string;
  readonly attributes: { readonly colour: string; readonly weight: number; readonly tags: readonly number[] };
  readonly created_at: string;
  readonly updated_at: string;
}

const md5 = (text: string): string => createHash("md5").update(text).digest("hex");

export const itemKey = (n: number): string =>
  md5(String(n)).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");

const colours = ["red", "green", "blue"] as const;
const startMs = Date.UTC(2026, 0, 1);

export const item = (n: number): Item => {
  const at = new Date(startMs + n * 1000).toISOString();
  return {
    id: itemKey(n),
    name: `item ${n}`,
    note: md5(`note ${n}`),
    quantity: n % 1000,
    price: ((n % 100_000) / 100).toFixed(2),
    attributes: { colour: colours[n % 3] ?? "", weight: n % 500, tags: [n % 7, n % 11] },
    created_at: at,
    updated_at: at,
  };
};

const contentColumns = itemColumns.replace("id, ", "");

/** What is wrong with a table that is to hold the rows 1 to `last` and nothing else, under whatever keys; empty: nothing. */
export const wrongItems = (server: BenchServer, database: string, last: number): Promise<string[]> =>
  withClient(server.url(database), async (client) => {
    const { rows } = await client.query<{ found: number; wrong: number }>(
      `SELECT (SELECT count(*)::int FROM items) AS found,
              (SELECT count(*)::int FROM (
                 SELECT ${contentColumns} FROM (SELECT ${itemValues("n")} FROM generate_series(1, $1::int) AS n) AS wanted (${itemColumns})
                 EXCEPT SELECT ${contentColumns} FROM items) AS missing) AS wrong`,
      [last],
    );
    const { found, wrong } = rows[0] ?? { found: 0, wrong: last };
    return found === last && wrong === 0
      ? []
      : [`${found} rows of ${last}, ${wrong} that are missing or differ`];
  });
