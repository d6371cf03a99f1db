/**
 * What the HTTP API asks of one master, and what comes back. Only values: an operation is the same at whichever master
 * it runs, and may run again at another.
 */

/**
 * A value as JSON has it. A number whose digits a JavaScript number would not keep stands as `JSON.rawJSON(digits)`
 * (see exact-json.ts): `JSON.stringify` writes it as it came.
 */
export type JsonValue = null | boolean | number | string | RawNumber | readonly JsonValue[] | JsonObject;
export interface JsonObject {
  readonly [name: string]: JsonValue;
}
export interface RawNumber {
  readonly rawJSON: string;
}

/** Column to value. A Map, since a column may be called `__proto__`. */
export type RowValues = ReadonlyMap<string, JsonValue>;

/** A primary key's values as PostgreSQL's text, in the order of the key's columns. */
export type Key = readonly string[];

/** What an ETag holds: the row's version, and its base where the table has owners. */
export interface RowVersion {
  readonly version: bigint;
  readonly base: bigint | null;
}

/** Of `If-Match` and `If-None-Match`: `any` is `*`, a row that exists. */
export type VersionMatch = "any" | readonly RowVersion[];

/** The columns wanted back; `null` all; `[]` none (Prefer: return=minimal), keys and versions come nevertheless. */
export type Returning = readonly string[] | null;

export interface InsertOperation {
  readonly kind: "insert";
  readonly table: string;
  readonly rows: readonly RowValues[];
  readonly returning: Returning;
  /** All its keys were made for this request: nobody else knows them. */
  readonly keysMade?: boolean;
}

export interface UpsertOperation {
  readonly kind: "upsert";
  readonly table: string;
  /** Each names its key. */
  readonly rows: readonly RowValues[];
  /** True: columns which are not named go back to their defaults (PUT), but for the owner. False: they are kept. */
  readonly replace: boolean;
  /** The row has to be there, in one of these versions. Of one row only. */
  readonly ifMatch: VersionMatch | null;
  /** `any`: the row must not be there. */
  readonly ifNoneMatch: "any" | null;
  readonly returning: Returning;
}

export interface UpdateOperation {
  readonly kind: "update";
  readonly table: string;
  readonly key: Key;
  readonly values: RowValues;
  readonly ifMatch: VersionMatch | null;
  readonly returning: Returning;
}

export interface DeleteOperation {
  readonly kind: "delete";
  readonly table: string;
  readonly key: Key;
  readonly ifMatch: VersionMatch | null;
  readonly returning: Returning;
}

export const comparisons = ["eq", "neq", "gt", "gte", "lt", "lte", "like", "ilike", "in", "is"] as const;
export type Comparison = (typeof comparisons)[number];

export interface Filter {
  readonly column: string;
  readonly comparison: Comparison;
  readonly negated: boolean;
  /** As PostgreSQL's text. Of `in` each value; of `is` one of null, true, false, unknown; else exactly one. */
  readonly values: readonly string[];
}

export interface Order {
  readonly column: string;
  readonly descending: boolean;
  /** null: as PostgreSQL has it, last when ascending. */
  readonly nullsFirst: boolean | null;
}

export interface SelectOperation {
  readonly kind: "select";
  readonly table: string;
  /** Of one row; `row-not-found` if it is not there. null: of all that pass the filters. */
  readonly key: Key | null;
  readonly columns: Returning;
  readonly filters: readonly Filter[];
  readonly order: readonly Order[];
  /** At most this many rows. */
  readonly limit: number;
  readonly offset: number;
  /** Go on after the row at which an earlier answer's `next` points. Not with an offset. */
  readonly after: string | null;
  /** Also count all rows that pass the filters. */
  readonly count: boolean;
}

/** One row by its key. */
export const selectRow = (table: string, key: Key, columns: Returning): SelectOperation => ({
  kind: "select",
  table,
  key,
  columns,
  filters: [],
  order: [],
  limit: 1,
  offset: 0,
  after: null,
  count: false,
});

export type WriteOperation = InsertOperation | UpsertOperation | UpdateOperation | DeleteOperation;
export type Operation = WriteOperation | SelectOperation;

export interface OperationResult {
  /** Schema and name of the table in the catalog. */
  readonly table: string;
  /**
   * The rows, each a JSON object's text with the user's columns, in the order of what was asked for; none where none
   * were wanted. Text, since every digit is in it: bigint and numeric stand in it as strings.
   */
  readonly rows: readonly string[];
  /** Of each row that was written or read, also where `rows` is empty. */
  readonly keys: readonly Key[];
  /** Of each row in `keys`; of a deleted row its tombstone's. */
  readonly versions: readonly RowVersion[];
  /** Of each row in `keys`: whether the write made it. False for reads. */
  readonly created: readonly boolean[];
  /** Rows that pass the filters, where that was asked for. */
  readonly count: number | null;
  /** Where the rows go on, where there are more; opaque. */
  readonly next: string | null;
}

/** The highest version among the results, 0n for none: what a later write must outrank. */
export const highestVersion = (results: readonly OperationResult[]): bigint => {
  let highest = 0n;
  for (const { versions } of results) {
    for (const { version } of versions) if (version > highest) highest = version;
  }
  return highest;
};

/** For keeping an answer (idempotency): JSON text, with versions as decimal strings. */
export const resultsToJson = (results: readonly OperationResult[]): string =>
  JSON.stringify(results, (_name, value: unknown) => (typeof value === "bigint" ? value.toString() : value));

/** @throws SyntaxError for what `resultsToJson` did not write */
export const resultsFromJson = (text: string): OperationResult[] => {
  const stored = JSON.parse(text) as (Omit<OperationResult, "versions"> & {
    versions: { version: string; base: string | null }[];
  })[];
  return stored.map((result) => ({
    ...result,
    versions: result.versions.map(({ version, base }) => ({
      version: BigInt(version),
      base: base === null ? null : BigInt(base),
    })),
  }));
};
