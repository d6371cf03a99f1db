import { Problem } from "../../src/problems.ts";
import type { Operation, OperationResult } from "../../src/write/operation.ts";
import type { RegionalWriter, WriteRequest } from "../../src/write/writer.ts";
import { eventually } from "../support/database.ts";
import { WritingRegions } from "./masters-fixture.ts";

export const insert = (table: string, row: Record<string, string>): Operation => ({
  kind: "insert",
  table,
  rows: [new Map(Object.entries(row))],
  returning: null,
});
export const update = (table: string, key: string, body: string): Operation => ({
  kind: "update",
  table,
  key: [key],
  values: new Map([["body", body]]),
  ifMatch: null,
  returning: null,
});

export const request = (
  operations: readonly Operation[],
  change: Partial<WriteRequest> = {},
): WriteRequest => ({
  operations,
  session: null,
  durable: null,
  waitMs: 0,
  idempotency: null,
  signal: new AbortController().signal,
  ...change,
});

/** The single row of each result. */
export const rowsOf = (results: readonly OperationResult[]): unknown[] =>
  results.map(({ rows }) => JSON.parse(rows[0] ?? "null") as unknown);

/** Makes a row that `owner` owns, and waits until every region has it. */
const ownedIn =
  (all: WritingRegions) =>
  async (writer: RegionalWriter, id: string, owner: string, table = "note"): Promise<void> => {
    await writer.write(request([insert(table, { id, body: "first", home_region: owner })]));
    await eventually(async () => {
      for (const name of all.regions.names) {
        const rows = await all.regions.db(name).query(`SELECT FROM public.${table} WHERE id = $1`, [id]);
        if (rows.length === 0) throw new Error(`${name} lacks ${id}`);
      }
    });
  };

/** Regions whose agents run, and what makes rows of theirs. */
export const openRegions = async () => {
  const all = await WritingRegions.create();
  await all.regions.agents();
  return { all, owned: ownedIn(all) };
};

export const codeOf = (error: unknown): string => (error instanceof Problem ? error.code : String(error));
export const refused = (promise: Promise<unknown>): Promise<string> => promise.then(() => "done", codeOf);
