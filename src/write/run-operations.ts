import type { ClientBase } from "pg";
import { Problem } from "../problems.ts";
import { queryBounded } from "./bounded-query.ts";
import { type Catalog, type CatalogTable, findTable } from "./catalog.ts";
import type {
  InsertOperation,
  Key,
  Operation,
  OperationResult,
  RowVersion,
  SelectOperation,
  UpsertOperation,
  VersionMatch,
} from "./operation.ts";
import { countStatement, pageStatement } from "./select-statements.ts";
import { preparedName } from "./prepared-names.ts";
import { queryPrepared } from "./prepared-query.ts";
import { timesRestamped } from "./restamped.ts";
import { type Found, found, mustBeAsKnown, resultOf, type Texts } from "./result-rows.ts";
import { problemOf } from "./sql-problems.ts";
import { insertStatements, type RowsStatement, upsertStatements } from "./row-statements.ts";
import {
  deleteStatement,
  replaceStatement,
  rowStatement,
  type Statement,
  tombstoneStatement,
  updateStatement,
} from "./statements.ts";

/**
 * Runs operations one after the other in the transaction that is open on `client`, a session with the settings that
 * postgres/client.ts pins (but for search_path, which the application's own triggers may need).
 * @throws Problem; the transaction is then to be rolled back. What the database said is its `cause`.
 */
export const runOperations = async (
  client: ClientBase,
  catalog: Catalog,
  operations: readonly Operation[],
): Promise<OperationResult[]> => {
  const results: OperationResult[] = [];
  for (const [at, operation] of operations.entries()) {
    try {
      results.push(await runOperation({ client, catalog }, operation));
    } catch (error) {
      const facts = { region: catalog.region, ...(operations.length > 1 ? { operation: at } : {}) };
      throw problemOf(error).with(facts);
    }
  }
  return results;
};

interface Session {
  readonly client: ClientBase;
  readonly catalog: Catalog;
}

const runOperation = async (session: Session, operation: Operation): Promise<OperationResult> => {
  const table = findTable(session.catalog, operation.table);
  switch (operation.kind) {
    case "insert":
      return insertRows(session, table, operation);
    case "upsert":
      return upsertRows(session, table, operation);
    case "update":
      return changeRow(session, table, { ...operation, statement: updateStatement(table, operation) });
    case "delete":
      return deleteRow(session, table, { ...operation, statement: deleteStatement(table, operation) });
    case "select":
      return operation.key === null
        ? selectPage(session, table, operation)
        : selectRow(session, table, { key: operation.key, columns: operation.columns });
    default:
      return operation satisfies never;
  }
};

const rawTypes = { getTypeParser: () => (text: string | Buffer) => text };

const nameOf = ({ catalog }: Session, { reusable, text }: Statement): string | undefined =>
  reusable ? preparedName(text, catalog) : undefined;

const configOf = (session: Session, statement: Statement) => {
  const name = nameOf(session, statement);
  return {
    ...(name === undefined ? {} : { name }),
    text: statement.text,
    values: [...statement.values],
    types: rawTypes,
  };
};

const run = async (session: Session, statement: Statement): Promise<readonly Texts[]> => {
  const { text, values } = statement;
  const name = nameOf(session, statement);
  const { rows, fields } =
    name === undefined
      ? await session.client.query<string[]>({ ...configOf(session, statement), rowMode: "array" })
      : await queryPrepared(session.client, { name, text, values });
  mustBeAsKnown(statement.shape, fields);
  return rows;
};

const insertRows = async (
  session: Session,
  table: CatalogTable,
  operation: InsertOperation,
): Promise<OperationResult> => {
  const { rows, returning, keysMade = false } = operation;
  const statements = insertStatements(table, rows, { returning, region: session.catalog.region, keysMade });
  return resultOf(table, await runRows(session, table, statements));
};

/** Runs the statement of each group, and puts the rows back into the order of the request. */
const runRows = async (
  session: Session,
  table: CatalogTable,
  statements: readonly RowsStatement[],
): Promise<Found[]> => {
  const placed: { readonly at: number; readonly row: Found }[] = [];
  for (const statement of statements) {
    const { rows, restamped } = await runWriting(session, statement);
    for (const [i, texts] of rows.entries()) {
      const row = await withFinalVersion(session, table, found(statement.shape, texts, restamped));
      placed.push({ at: statement.positions[i] ?? 0, row });
    }
  }
  return placed.sort((a, b) => a.at - b.at).map(({ row }) => row);
};

/** `restamped`: a trigger has stamped some of the rows once more, after they were returned. */
const runWriting = async (
  session: Session,
  statement: Statement,
): Promise<{ readonly rows: readonly Texts[]; readonly restamped: boolean }> => {
  const before = timesRestamped(session.client);
  const rows = await run(session, statement);
  return { rows, restamped: timesRestamped(session.client) > before };
};

/** Where a tombstone was there, or came while the statement waited, a trigger has stamped the row once more. */
const withFinalVersion = async (session: Session, table: CatalogTable, row: Found): Promise<Found> => {
  if (!row.stampedAnew) return row;
  const statement = rowStatement(table, row.key, []);
  const [texts] = await run(session, statement);
  return texts === undefined ? row : { ...row, version: found(statement.shape, texts).version };
};

const upsertRows = async (
  session: Session,
  table: CatalogTable,
  operation: UpsertOperation,
): Promise<OperationResult> => {
  const { ifMatch, ifNoneMatch, returning } = operation;
  if (ifMatch !== null) {
    const statement = replaceStatement(table, operation);
    const key = table.key.map(({ name }) => keyText(operation.rows[0]?.get(name)));
    return changeRow(session, table, { statement, key, ifMatch });
  }
  const options = { returning, region: session.catalog.region };
  const rows = await runRows(session, table, upsertStatements(table, operation, options));
  if (ifNoneMatch === "any" && rows.length < operation.rows.length) {
    throw new Problem("version-mismatch", "a row with this key is there already");
  }
  return resultOf(table, rows);
};

const keyText = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value ?? ""));

interface RowChange {
  readonly statement: Statement;
  readonly key: Key;
  readonly ifMatch: VersionMatch | null;
}

const changeRow = async (
  session: Session,
  table: CatalogTable,
  change: RowChange,
): Promise<OperationResult> => {
  const first = await runWriting(session, change.statement);
  const {
    rows: [texts],
    restamped,
  } = first.rows.length > 0 ? first : await writeAgain(session, table, change);
  if (texts === undefined) throw new TypeError("a row was written, and is not told of");
  const row = found(change.statement.shape, texts, restamped);
  return resultOf(table, [await withFinalVersion(session, table, row)]);
};

/** A write found no row to write: there is none, or a peer's change has brought it since. @throws Problem that says why */
const writeAgain = async (session: Session, table: CatalogTable, change: RowChange) => {
  const problem = await whyNot(session, table, change);
  if (problem.code !== "refused-by-database") throw problem;
  const written = await runWriting(session, change.statement);
  if (written.rows.length === 0) throw problem;
  return written;
};

/** Why a write found no row to write. */
const whyNot = async (session: Session, table: CatalogTable, change: RowChange): Promise<Problem> => {
  const statement = rowStatement(table, change.key, []);
  const [texts] = await run(session, statement);
  if (texts === undefined) {
    return change.ifMatch === null
      ? rowNotFound(table, session.catalog.region)
      : new Problem("version-mismatch", "If-Match: there is no row with this key");
  }
  const { version } = found(statement.shape, texts);
  return change.ifMatch === null || matches(change.ifMatch, version)
    ? new Problem("refused-by-database", "a trigger of the table kept the row as it was")
    : new Problem("version-mismatch", "the row has another version than If-Match names");
};

/** Whether a row's version is among those named. */
export const matches = (match: VersionMatch, { version, base }: RowVersion): boolean =>
  match === "any" || match.some((other) => other.version === version && other.base === base);

export const rowNotFound = (table: CatalogTable, region: string): Problem =>
  new Problem("row-not-found", `region ${region} has no row with this key in ${table.name}`);

const deleteRow = async (
  session: Session,
  table: CatalogTable,
  change: RowChange,
): Promise<OperationResult> => {
  const result = await changeRow(session, table, change);
  const [key] = result.keys;
  const statement = tombstoneStatement(table, key ?? change.key);
  const [texts] = await run(session, statement);
  return texts === undefined ? result : { ...result, versions: [found(statement.shape, texts).version] };
};

const selectRow = async (
  session: Session,
  table: CatalogTable,
  { key, columns }: { readonly key: Key; readonly columns: SelectOperation["columns"] },
): Promise<OperationResult> => {
  const statement = rowStatement(table, key, columns);
  const [texts] = await run(session, statement);
  if (texts === undefined) throw rowNotFound(table, session.catalog.region);
  return resultOf(table, [found(statement.shape, texts)]);
};

/** A page ends before its limit where its rows are long; `next` goes on. */
const maxPageCharacters = 4 * 1024 * 1024;

const selectPage = async (
  session: Session,
  table: CatalogTable,
  operation: SelectOperation,
): Promise<OperationResult> => {
  const statement = pageStatement(table, operation);
  const { rows, fields, cut } = await queryBounded(
    session.client,
    configOf(session, statement),
    maxPageCharacters,
  );
  mustBeAsKnown(statement.shape, fields);
  const page = rows.slice(0, operation.limit);
  const last = page.at(-1);
  const goesOn = (cut || rows.length > page.length) && last !== undefined;
  return {
    ...resultOf(
      table,
      page.map((texts) => found(statement.shape, texts)),
    ),
    count: operation.count ? await countRows(session, table, operation) : null,
    next: goesOn ? statement.cursorAfter(statement.shape.order.map((at) => last[at] ?? null)) : null,
  };
};

const countRows = async (
  session: Session,
  table: CatalogTable,
  operation: SelectOperation,
): Promise<number> => {
  const { text, values } = countStatement(table, operation.filters);
  const { rows } = await session.client.query<{ count: string }>(text, [...values]);
  return Number(rows[0]?.count ?? 0);
};

/** What is held of a key: the version of its row or of its tombstone; null: neither is there. */
export const heldVersion = async (
  client: ClientBase,
  catalog: Catalog,
  { table, key }: { readonly table: CatalogTable; readonly key: Key },
): Promise<RowVersion | null> => {
  // A row that is deleted in between has its tombstone when that is looked for.
  for (const statement of [rowStatement(table, key, []), tombstoneStatement(table, key)]) {
    const [texts] = await run({ client, catalog }, statement);
    if (texts !== undefined) return found(statement.shape, texts).version;
  }
  return null;
};
