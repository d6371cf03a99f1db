import { createHash } from "node:crypto";
import { performance } from "node:perf_hooks";
import { Problem } from "../problems.ts";
import { isCatalogStale } from "./sql-problems.ts";

/** The tables that a master serves: those that are replicated, with the columns that are the application's. */
export interface Catalog {
  /** The master's region: what a new row is owned by that names no owner. */
  readonly region: string;
  /** Differs between catalogs that differ, as a prepared statement's name must. */
  readonly generation: string;
  /** By `schema.table`. */
  readonly tables: ReadonlyMap<string, CatalogTable>;
  /** By the table's name alone; null where several schemas have it. */
  readonly byPlainName: ReadonlyMap<string, CatalogTable | null>;
}

export interface CatalogTable {
  /** `schema.table`, unquoted. */
  readonly name: string;
  readonly schema: string;
  readonly table: string;
  /** Of its tombstone relation in schema `coregent`. */
  readonly tombstone: string;
  readonly ownerColumn: string | null;
  readonly failover: "takeover" | "provisional";
  /** In attribute order, without Coregent's own. */
  readonly columns: ReadonlyMap<string, CatalogColumn>;
  readonly key: readonly CatalogColumn[];
  /** Whether new rows of several requests may be one statement: nothing of the application's would see that they are. */
  readonly gathersInserts: boolean;
}

export interface CatalogColumn {
  readonly name: string;
  /** The type's name, quoted, without a modifier: `$1::varchar(2)` would cut what an assignment refuses. */
  readonly cast: string;
  /** What a value is compared as: as `cast`, but a domain's own type, whose CHECK says nothing of a filter. */
  readonly baseCast: string;
  /** Of the base type: what a result's column of it says. */
  readonly typeOid: number;
  /** Name of the base type in pg_catalog, such as `int4`; `""` for types of others. */
  readonly type: string;
  readonly shape: "scalar" | "json" | "array" | "composite";
  /** Of an array: the elements' `type`. */
  readonly elementType: string;
  /** Length of char(n) and varchar(n); null where there is none. */
  readonly maxLength: number | null;
  readonly notNull: boolean;
  /** False: PostgreSQL computes it always. */
  readonly writable: boolean;
  /** Its expression; null where there is none. */
  readonly default: string | null;
  readonly isIdentity: boolean;
}

/** What reading the catalog needs of a pool or a client. */
export interface Queryable {
  query(text: string): Promise<{ rows: unknown[] }>;
}

const baseType = (type: string): string => `(
  WITH RECURSIVE down AS (
    SELECT t.* FROM pg_type t WHERE t.oid = ${type}
    UNION ALL SELECT b.* FROM down d JOIN pg_type b ON b.oid = d.typbasetype WHERE d.typtype = 'd')
  SELECT d.oid FROM down d WHERE d.typtype <> 'd')`;

const castOf = (type: string): string => `(
  SELECT quote_ident(n.nspname) || '.' || quote_ident(t.typname) FROM pg_type t
    JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.oid = ${type})`;

/** Name of a built-in type, else ''. */
const builtIn = (type: string): string => `coalesce((
  SELECT t.typname FROM pg_type t WHERE t.oid = ${type} AND t.typnamespace = 'pg_catalog'::regnamespace), '')`;

/**
 * Whether nothing of the application's runs once for a statement, or looks from one row at what others have left: no trigger of
 * its own (that of a partition too), no rule, no policy, no DEFAULT or CHECK, of the table or of a column's domain, with a function of
 * its own that may read tables.
 */
const gathersInserts = `
  NOT k.relhasrules AND NOT k.relrowsecurity
  AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_proc f ON f.oid = g.tgfoid
     WHERE NOT g.tgisinternal AND g.tgenabled <> 'D' AND f.pronamespace <> 'coregent'::regnamespace
       AND (g.tgrelid = k.oid OR g.tgrelid IN (SELECT relid FROM pg_partition_tree(k.oid))))
  AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_depend d
      JOIN pg_catalog.pg_proc f ON d.refclassid = 'pg_proc'::regclass AND f.oid = d.refobjid
      JOIN pg_catalog.pg_language l ON l.oid = f.prolang
     WHERE f.provolatile <> 'i' AND l.lanname NOT IN ('internal', 'c') AND f.pronamespace <> 'coregent'::regnamespace
       AND (d.classid = 'pg_attrdef'::regclass
              AND d.objid IN (SELECT oid FROM pg_catalog.pg_attrdef WHERE adrelid = k.oid)
            OR d.classid = 'pg_constraint'::regclass AND d.objid IN (
              SELECT oid FROM pg_catalog.pg_constraint WHERE contype = 'c' AND (conrelid = k.oid
                  OR contypid IN (SELECT atttypid FROM pg_catalog.pg_attribute WHERE attrelid = k.oid)))))`;

const tablesSql = `
SELECT r.name, r.schema_name AS schema, r.table_name AS table, r.tombstone, r.owner_column AS "ownerColumn", r.failover,
       r.key_columns AS key, c.columns, ${gathersInserts} AS "gathersInserts"
  FROM coregent.replicated_table r
  JOIN pg_catalog.pg_namespace n ON n.nspname = r.schema_name
  JOIN pg_catalog.pg_class k ON k.relnamespace = n.oid AND k.relname = r.table_name AND k.relkind IN ('r', 'p')
  CROSS JOIN LATERAL (
    SELECT json_agg(json_build_object(
             'name', a.attname,
             'cast', ${castOf("a.atttypid")},
             'baseCast', ${castOf("b.oid")},
             'typeOid', b.oid::bigint,
             'type', ${builtIn("b.oid")},
             'shape', CASE WHEN b.typname IN ('json', 'jsonb') AND b.typnamespace = 'pg_catalog'::regnamespace THEN 'json'
                           WHEN b.typcategory = 'A' THEN 'array' WHEN b.typtype = 'c' THEN 'composite' ELSE 'scalar' END,
             'elementType', CASE WHEN b.typcategory = 'A' THEN ${builtIn(baseType("b.typelem"))} ELSE '' END,
             'maxLength', CASE WHEN a.atttypmod > 4 AND b.typname IN ('bpchar', 'varchar') THEN a.atttypmod - 4 END,
             'notNull', a.attnotnull,
             'writable', a.attgenerated = '' AND a.attidentity <> 'a',
             'default', CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END,
             'isIdentity', a.attidentity <> '') ORDER BY a.attnum) AS columns
      FROM pg_catalog.pg_attribute a
      JOIN pg_catalog.pg_type b ON b.oid = ${baseType("a.atttypid")}
      LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE a.attrelid = k.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attname NOT LIKE 'cg\\_%') c
 WHERE r.schema_name <> 'coregent' AND c.columns IS NOT NULL
 ORDER BY r.name COLLATE "C"`;

type TableRow = Omit<CatalogTable, "columns" | "key"> & {
  readonly columns: readonly CatalogColumn[];
  readonly key: readonly string[];
};

const tableOf = ({ columns, key, ...row }: TableRow): CatalogTable | null => {
  const byName = new Map(columns.map((column) => [column.name, column]));
  const keyColumns = key.map((name) => byName.get(name)).filter((column) => column !== undefined);
  // A key that is not the one installed any more: `check` reports it, and nothing can be addressed.
  return keyColumns.length === key.length ? { ...row, columns: byName, key: keyColumns } : null;
};

/** The catalog of the master that `client` reaches. Needs schema `coregent` (else SQLSTATE 42P01). */
export const readCatalog = async (client: Queryable, region: string): Promise<Catalog> => {
  const { rows } = await client.query(tablesSql);
  const tables = new Map<string, CatalogTable>();
  const byPlainName = new Map<string, CatalogTable | null>();
  for (const row of rows as TableRow[]) {
    const table = tableOf(row);
    if (table === null) continue;
    tables.set(table.name, table);
    byPlainName.set(table.table, byPlainName.has(table.table) ? null : table);
  }
  const generation = createHash("sha256").update(JSON.stringify(rows)).digest("hex").slice(0, 12);
  return { region, generation, tables, byPlainName };
};

/**
 * The table that a caller named, as `schema.table` or by its name alone.
 * @throws Problem `table-unknown`
 */
export const findTable = (catalog: Catalog, name: string): CatalogTable => {
  const table = catalog.tables.get(name) ?? catalog.byPlainName.get(name);
  if (table === undefined) throw new Problem("table-unknown", `there is no replicated table ${quoted(name)}`);
  if (table === null) {
    throw new Problem(
      "table-unknown",
      `several schemas have a table ${quoted(name)}: name it as schema.table`,
    );
  }
  return table;
};

/** A catalog that is read now and then. */
export interface CatalogSource {
  get(): Promise<Catalog>;
  /** For a table that is not known: read again, unless that was done a moment ago. */
  refreshed(): Promise<Catalog>;
}

/** Read again if one of these names is not in it: the table may just have been taken up. */
export const catalogWith = async (source: CatalogSource, names: readonly string[]): Promise<Catalog> => {
  const catalog = await source.get();
  const known = names.every((name) => catalog.tables.has(name) || catalog.byPlainName.has(name));
  return known ? catalog : source.refreshed();
};

/** @throws Problem `column-unknown` */
export const findColumn = (table: CatalogTable, name: string): CatalogColumn => {
  const column = table.columns.get(name);
  if (column === undefined) {
    throw new Problem("column-unknown", `${table.name} has no column ${quoted(name)}`, {
      column: shortened(name),
    });
  }
  return column;
};

const shortened = (name: string): string => (name.length > 100 ? `${name.slice(0, 100)}...` : name);
/** What a caller called something, for a message: bounded, and visibly apart from the sentence. */
export const quoted = (name: string): string => JSON.stringify(shortened(name));

export interface CatalogCacheOptions {
  readonly region: string;
  /** Reads the master's catalog: `readCatalog` with a client of its pool. */
  readonly read: () => Promise<Catalog>;
  /** Milliseconds since some moment, never going back. */
  readonly monotonic?: () => number;
  /** Read again when it is used after this time. */
  readonly maxAgeMs?: number;
  /** Not read more often than this, however many unknown tables are asked for. */
  readonly minAgeMs?: number;
}

/** A master's catalog, kept: read at first use, after a time, and when a statement shows that it is out of date. */
export class CatalogCache {
  readonly #options: Required<CatalogCacheOptions>;
  #catalog: Catalog | null = null;
  #readAt = 0;
  #reading: Promise<Catalog> | null = null;
  /** How often a statement has found it out of date. */
  #noticed = 0;

  constructor(options: CatalogCacheOptions) {
    this.#options = {
      monotonic: () => performance.now(),
      maxAgeMs: 10_000,
      minAgeMs: 500,
      ...options,
    };
  }

  /** The catalog as last read, if it was ever read; for reading requests while no master can be reached. */
  get latest(): Catalog | null {
    return this.#catalog;
  }

  /**
   * @throws what reading throws, while there is none; one that is too old serves until the next is there
   */
  async get(): Promise<Catalog> {
    if (this.#catalog === null) return this.#read();
    if (this.#age === Number.POSITIVE_INFINITY) return this.#read();
    if (this.#age >= this.#options.maxAgeMs) this.#read().catch(() => undefined);
    return this.#catalog;
  }

  /** Read again, unless that was done a moment ago. For a table that is not known. */
  async refreshed(): Promise<Catalog> {
    if (this.#catalog !== null && this.#age < this.#options.minAgeMs) return this.#catalog;
    return this.#read();
  }

  /**
   * For an error of a statement: whether the catalog may have been out of date (it is then read again before its next
   * use), so that the whole transaction is worth one more attempt.
   */
  noticed(error: unknown): boolean {
    if (!isCatalogStale(error)) return false;
    this.#noticed += 1;
    this.#readAt = Number.NEGATIVE_INFINITY;
    return true;
  }

  get #age(): number {
    return this.#options.monotonic() - this.#readAt;
  }

  #read(): Promise<Catalog> {
    const startedAt = this.#options.monotonic();
    const noticed = this.#noticed;
    this.#reading ??= this.#options
      .read()
      .then((catalog) => {
        const generation = `${catalog.generation}_${noticed}`;
        // The same object for the same contents: statements prepared for it go on being used.
        if (this.#catalog?.generation !== generation) this.#catalog = { ...catalog, generation };
        // Unless it was noticed once more while it was read.
        if (noticed === this.#noticed) this.#readAt = startedAt;
        return this.#catalog;
      })
      .finally(() => {
        this.#reading = null;
      });
    return this.#reading;
  }
}
