import { Problem } from "../problems.ts";
import { identifier, list } from "../postgres/identifiers.ts";
import { remembered } from "../remembered.ts";
import type { CatalogColumn, CatalogTable } from "./catalog.ts";
import type { Returning, RowValues, UpsertOperation } from "./operation.ts";
import {
  type Assignments,
  assignments,
  hadTombstone,
  Parameters,
  relation,
  selectList,
  setList,
  type Statement,
  valueOf,
} from "./statements.ts";
import { arrayOf, parameterOf } from "./value-text.ts";

/** Inserts and upserts of one row or many. */

/** Rows that name the same columns: one statement writes them all. */
interface RowGroup {
  readonly named: ReadonlySet<CatalogColumn>;
  /** Those named, and the owner's. */
  readonly columns: readonly CatalogColumn[];
  readonly rows: Assignments[];
  /** Positions in the operation. */
  readonly positions: number[];
}

/** A new row belongs to the region that takes it, unless it names another or the table has a default. */
const ownerToFill = (table: CatalogTable, named: Assignments): CatalogColumn | null => {
  const column = table.ownerColumn === null ? undefined : table.columns.get(table.ownerColumn);
  const given = column === undefined || named.has(column) || column.default !== null || !column.writable;
  return given ? null : column;
};

const groupRows = (table: CatalogTable, rows: readonly RowValues[], region: string): RowGroup[] => {
  const groups = new Map<string, RowGroup>();
  for (const [position, row] of rows.entries()) {
    const named = assignments(table, row);
    const owner = ownerToFill(table, named);
    const values = owner === null ? named : new Map(named).set(owner, region);
    const columns = [...table.columns.values()].filter((column) => values.has(column));
    // `DEFAULT VALUES` makes one row.
    const alone = columns.length === 0 ? position : "";
    const id = JSON.stringify([alone, owner === null, ...columns.map(({ name }) => name)]);
    let group = groups.get(id);
    if (group === undefined) {
      group = { named: new Set(named.keys()), columns, rows: [], positions: [] };
      groups.set(id, group);
    }
    group.rows.push(values);
    group.positions.push(position);
  }
  return [...groups.values()];
};

/** `("a", "b") VALUES (...)`, or from one array for each column, so that the text does not depend on how many rows. */
const source = (group: RowGroup, parameters: Parameters): string => {
  const { columns, rows } = group;
  if (columns.length === 0) return "DEFAULT VALUES";
  const names = `(${list(columns.map(({ name }) => name))})`;
  if (rows.length === 1) {
    const values = columns.map((column) => parameters.bind(valueOf(rows[0], column), column.cast));
    return `${names} VALUES (${values.join(", ")})`;
  }
  const arrays = columns.map((column) =>
    parameters.bind(arrayOf(rows.map((row) => valueOf(row, column))), "text[]"),
  );
  const casts = columns.map((column, at) => `x.c${at}::${column.cast}`);
  const aliases = columns.map((_, at) => `c${at}`);
  return `${names} SELECT ${casts.join(", ")} FROM unnest(${arrays.join(", ")}) AS x(${aliases.join(", ")})`;
};

/** One statement for each set of columns that the rows name, and which rows each one writes. */
export interface RowsStatement extends Statement {
  readonly positions: readonly number[];
}

export interface RowsOptions {
  readonly returning: Returning;
  /** The region that takes the rows. */
  readonly region: string;
  /** All keys are new: none has a tombstone, which is not looked for. */
  readonly keysMade?: boolean;
}

/** Inserts; a key that is there is a unique violation. */
export const insertStatements = (
  table: CatalogTable,
  rows: readonly RowValues[],
  { returning, region, keysMade = false }: RowsOptions,
): RowsStatement[] =>
  groupRows(table, rows, region).map((group) =>
    insert(table, group, { returning, onConflict: "", keysMade }),
  );

/** An insert of one row, of which only the values are to be made. */
export interface InsertPlan extends Omit<Statement, "values"> {
  /** @throws Problem `value-invalid` */
  readonly values: (row: RowValues) => readonly (string | null)[];
  /** The same of any number of rows: an array for each column. null: rows of several requests are not to go together. */
  readonly together: string | null;
}

const maxPlans = 100;
const plansOf = remembered((_table: CatalogTable) => new Map<string, InsertPlan>());

/**
 * The insert of a row under a key that was made for it. Rows that name the same columns have the same.
 * @throws Problem `column-unknown`, `column-not-writable`, `value-invalid`
 */
export const insertPlan = (table: CatalogTable, row: RowValues, options: RowsOptions): InsertPlan | null => {
  const { returning, region } = options;
  const usual = returning === null || returning.length === 0;
  const known = plansOf(table);
  const id = JSON.stringify([region, returning === null, ...row.keys()]);
  const plan = usual ? known.get(id) : undefined;
  if (plan !== undefined) return plan;
  const [group, ...others] = groupRows(table, [row], region);
  if (group === undefined || others.length > 0 || group.columns.length === 0) return null;
  const { text, reusable, shape } = insert(table, group, { returning, onConflict: "", keysMade: true });
  const { columns } = group;
  const several = { ...group, rows: [...group.rows, ...group.rows] };
  const together =
    usual && table.gathersInserts
      ? insert(table, several, { returning, onConflict: "", keysMade: true }).text
      : null;
  const made: InsertPlan = {
    text,
    together,
    reusable,
    shape,
    values: (values) =>
      columns.map((column) => {
        const value = values.get(column.name);
        return value === undefined ? region : parameterOf(column, value);
      }),
  };
  if (usual && known.size < maxPlans) known.set(id, made);
  return made;
};

const insert = (
  table: CatalogTable,
  group: RowGroup,
  options: { readonly returning: Returning; readonly onConflict: string; readonly keysMade?: boolean },
): RowsStatement => {
  const parameters = new Parameters();
  const { text, shape } = selectList(table, options.returning, {
    created: "t.cg_prev = 0",
    ...(options.keysMade === true ? {} : { stampedAnew: hadTombstone(table) }),
  });
  return {
    text: `INSERT INTO ${relation(table)} AS t ${source(group, parameters)}${options.onConflict} RETURNING ${text}`,
    values: parameters.values,
    reusable: true,
    shape,
    positions: group.positions,
  };
};

const keyNames = (table: CatalogTable): string => list(table.key.map(({ name }) => name));

/** Inserts, or replaces what is there. Not for `ifMatch`, whose row has to be there: see `replaceStatement`. */
export const upsertStatements = (
  table: CatalogTable,
  operation: UpsertOperation,
  { returning, region }: RowsOptions,
): RowsStatement[] =>
  groupRows(table, operation.rows, region).map((group) => {
    requireKey(table, group);
    const changes = setList(table, {
      replace: operation.replace,
      named: group.named,
      value: (column) => `excluded.${identifier(column.name)}`,
    });
    const onConflict =
      operation.ifNoneMatch === "any" ? "DO NOTHING" : `DO UPDATE SET ${changes || touch(table)}`;
    return insert(table, group, {
      returning,
      onConflict: ` ON CONFLICT (${keyNames(table)}) ${onConflict}`,
    });
  });

const requireKey = (table: CatalogTable, group: RowGroup): void => {
  for (const column of table.key) {
    if (!group.columns.includes(column)) {
      throw new Problem("body-invalid", `a row to be upserted needs its key: ${JSON.stringify(column.name)}`);
    }
  }
};

const touch = (table: CatalogTable): string =>
  table.key.map(({ name }) => `${identifier(name)} = excluded.${identifier(name)}`).join(", ");
