import type { ClientBase } from "pg";
import type { Failover, Route } from "../../regions/table-settings.ts";
import { remembered } from "../remembered.ts";
import { type Catalog, type CatalogTable, findTable } from "./catalog.ts";
import type { JsonValue, Key, Operation, RowValues } from "./operation.ts";
import { ownerStatement } from "./statements.ts";
import { parameterOf } from "./value-text.ts";

/** What a write's route depends on besides the masters. */
export interface Ownership {
  /** The owners of the rows, the one who owns most first; [] where nobody owns them or they are not known here. */
  readonly owners: readonly string[];
  readonly route: Route;
  readonly failover: Failover;
}

/** A row whose owner has to be looked up; `named` owns it if it is not there. */
interface Wanted {
  readonly table: CatalogTable;
  readonly key: Key;
  readonly named: string | null;
}

/** Of more rows the owners are not looked up: a transaction runs at one master in any case. */
const maxLookups = 64;

const text = (value: JsonValue | undefined): string | null => (typeof value === "string" ? value : null);

/** The key in a row's values; null where it is not whole, or cannot be a key: its statement will say so. */
export const keyIn = (table: CatalogTable, row: RowValues): Key | null => {
  try {
    const key = table.key.map((column) => parameterOf(column, row.get(column.name) ?? null));
    return key.every((part) => part !== null) ? key : null;
  } catch {
    return null;
  }
};

/**
 * The owners of the rows that operations write, as the master of that client has them: that of the row that is there, else the one
 * that a new row names. `routeOf` tells how a table is routed. In one round trip for all rows together.
 * @throws Problem `table-unknown`; what the connection throws. Keys that PostgreSQL refuses count as unknown.
 */
export const ownersOf = async (
  withClient: (work: (client: ClientBase) => Promise<(string | null)[]>) => Promise<(string | null)[]>,
  operations: readonly Operation[],
  { catalog, routeOf }: { readonly catalog: Catalog; readonly routeOf: (table: string) => Route },
): Promise<Ownership> => {
  const counts = new Map<string, number>();
  const count = (owner: string | null): void => {
    if (owner !== null) counts.set(owner, (counts.get(owner) ?? 0) + 1);
  };
  const wanted: Wanted[] = [];
  let failover: Failover = "provisional";
  for (const operation of operations) {
    const table = findTable(catalog, operation.table);
    if (operation.kind === "select" || table.ownerColumn === null || routeOf(table.name) === "nearest") {
      continue;
    }
    if (table.failover === "takeover") failover = "takeover";
    for (const each of rowsOf(operation, table)) {
      if (each.key === null) count(each.named);
      else if (wanted.length < maxLookups) wanted.push({ table, key: each.key, named: each.named });
    }
  }
  const found = wanted.length === 0 ? [] : await withClient((client) => lookUp(client, wanted));
  for (const owner of found) count(owner);
  const owners = [...counts].toSorted((a, b) => b[1] - a[1]).map(([owner]) => owner);
  return { owners, route: "owner", failover };
};

const rowsOf = (
  operation: Exclude<Operation, { kind: "select" }>,
  table: CatalogTable,
): readonly { readonly key: Key | null; readonly named: string | null }[] => {
  switch (operation.kind) {
    case "insert":
      return operation.rows.map((row) => ({ key: null, named: text(row.get(table.ownerColumn ?? "")) }));
    case "upsert":
      return operation.rows.map((row) => ({
        key: keyIn(table, row),
        named: text(row.get(table.ownerColumn ?? "")),
      }));
    case "update":
    case "delete":
      return [{ key: operation.key, named: null }];
  }
};

let named = 0;

/** Of the prepared statement: another one for each catalog that was read, since the table may have changed. */
const lookUpName = remembered((_table: CatalogTable) => `coregent owner ${++named}`);

const lookUp = async (client: ClientBase, wanted: readonly Wanted[]): Promise<(string | null)[]> => {
  const answers = await Promise.allSettled(
    wanted.map(async ({ table, key }) => {
      const statement = ownerStatement(table, key);
      return client.query<{ owner: string | null }>({
        name: lookUpName(table),
        text: statement.text,
        values: [...statement.values],
      });
    }),
  );
  return answers.map((answer, at) => {
    if (answer.status === "fulfilled") {
      const [row] = answer.value.rows;
      return row === undefined ? (wanted[at]?.named ?? null) : row.owner;
    }
    // A key of another type, or of too many parts: the statement that is to come is refused for it, in better words.
    if (isRefusal(answer.reason)) return wanted[at]?.named ?? null;
    throw answer.reason;
  });
};

const isRefusal = (error: unknown): boolean =>
  error instanceof Error &&
  "code" in error &&
  typeof error.code === "string" &&
  /^(22|parameter|value)/.test(error.code);
