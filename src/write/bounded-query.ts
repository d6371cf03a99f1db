import { type ClientBase, type FieldDef, Query, type QueryConfig, type QueryArrayResult } from "pg";

import { forgetHeldBytes } from "./held-bytes.ts";

export interface BoundedRows {
  readonly rows: (string | null)[][];
  readonly fields: readonly FieldDef[];
  /** Further rows came, and were not kept. */
  readonly cut: boolean;
}

/**
 * Rows as arrays of texts, of which at most so many characters are kept, but one row at least: what a table holds does not
 * decide how much memory a request takes.
 */
export const queryBounded = (
  client: ClientBase,
  config: QueryConfig,
  maxCharacters: number,
): Promise<BoundedRows> =>
  new Promise((resolve, reject) => {
    const rows: (string | null)[][] = [];
    let characters = 0;
    let cut = false;
    const query = new Query<(string | null)[]>({ ...config, rowMode: "array" } as QueryConfig);
    query.on("row", (texts: (string | null)[]) => {
      if (cut) {
        forgetHeldBytes(client);
        return;
      }
      for (const text of texts) characters += text?.length ?? 0;
      if (characters > maxCharacters && rows.length > 0) cut = true;
      else rows.push(texts);
    });
    query.on("error", reject);
    query.on("end", (result) =>
      resolve({ rows, fields: (result as unknown as QueryArrayResult).fields, cut }),
    );
    client.query(query);
  });
