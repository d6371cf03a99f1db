import type { ClientBase } from "pg";
import { type Catalog, type CatalogTable, findTable } from "./catalog.ts";
import type { Operation, OperationResult } from "./operation.ts";
import { found, isPrepared, named, type NamedStatement, resultOf, runNamed } from "./result-rows.ts";
import { type InsertPlan, insertPlan } from "./row-statements.ts";
import { arrayOf } from "./value-text.ts";

/** A statement upon whose answer nothing depends. */
export interface AtOnce {
  /** In this session, and what it answers is what the catalog says. */
  readonly isPrepared: (client: ClientBase) => boolean;
  readonly run: (client: ClientBase) => Promise<OperationResult[]>;
}

/** One new row under a key that was made for it: no tombstone, and nothing that depends on the answer. */
export interface SingleInsert extends AtOnce {
  readonly values: readonly (string | null)[];
  /** Of those that may go together; null: it goes alone. */
  readonly form: InsertForm | null;
}

/** Inserts of single rows that differ in their values only: the same object for the same form. */
export interface InsertForm {
  /** Of one row for each of these; their results in the same order. */
  readonly of: (rows: readonly (readonly (string | null)[])[]) => AtOnce;
}

/**
 * The operations as a single insert; null: they are more than that.
 * @throws Problem
 */
export const singleInsert = (catalog: Catalog, operations: readonly Operation[]): SingleInsert | null => {
  const [operation] = operations;
  if (operations.length !== 1 || operation?.kind !== "insert" || operation.keysMade !== true) return null;
  const { rows, returning } = operation;
  const [row] = rows;
  const table = findTable(catalog, operation.table);
  if (rows.length !== 1 || row === undefined) return null;
  const plan = insertPlan(table, row, { returning, region: catalog.region });
  const statement = plan === null ? null : named(plan, catalog);
  if (plan === null || statement === null) return null;
  const values = plan.values(row);
  return {
    values,
    isPrepared: (client) => isPrepared(client, statement),
    run: async (client) => {
      const all = await runNamed(client, statement, values);
      return [
        resultOf(
          table,
          all.map((texts) => found(statement.shape, texts)),
        ),
      ];
    },
    form: formOf(plan, table, catalog),
  };
};

const forms = new WeakMap<InsertPlan, InsertForm>();

const formOf = (plan: InsertPlan, table: CatalogTable, catalog: Catalog): InsertForm | null => {
  if (plan.together === null) return null;
  const known = forms.get(plan);
  if (known !== undefined) return known;
  const statement = named({ text: plan.together, shape: plan.shape }, catalog);
  if (statement === null) return null;
  const form: InsertForm = { of: (rows) => several(table, statement, rows) };
  forms.set(plan, form);
  return form;
};

const several = (
  table: CatalogTable,
  statement: NamedStatement,
  rows: readonly (readonly (string | null)[])[],
): AtOnce => {
  const columns = (rows[0] ?? []).map((_, at) => arrayOf(rows.map((values) => values[at] ?? null)));
  return {
    isPrepared: (client) => isPrepared(client, statement),
    run: async (client) => {
      const all = await runNamed(client, statement, columns);
      return all.map((texts) => resultOf(table, [found(statement.shape, texts)]));
    },
  };
};
