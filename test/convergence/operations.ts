import type { Random } from "../../src/demo/random.ts";
import { contended, inScope, type Table } from "./tables.ts";

/** One statement of the workload. */
export interface Operation {
  readonly table: Table;
  readonly name: string;
  /** Gives one row of text columns for each key that it wrote, unless `silent`. */
  readonly sql: string;
  readonly values: readonly unknown[];
  readonly silent?: boolean;
}

export interface Scope {
  /** What all keys of the schedule begin with. */
  readonly prefix: string;
  /** Names of the regions, for owners. */
  readonly regions: readonly string[];
  /** How many keys of each table: few, so that writes meet. */
  readonly keys: number;
}

type Key = readonly unknown[];

const keyOf = (table: Table, random: Random, { prefix, keys }: Scope): Key => {
  const name = `${prefix}${random.integer(1, keys)}`;
  return table.key.length === 1 ? [name] : [random.integer(1, 2), name];
};

const keyList = (table: Table): string => table.key.join(", ");

const isKey = (table: Table, from: number): string =>
  table.key.map((column, i) => `${column} = $${from + i}`).join(" AND ");

const returning = (table: Table): string =>
  `RETURNING ${table.key.map((column) => `${column}::text AS ${column}`).join(", ")}`;

/** Long enough to be stored out of line; compressed it would not be. */
const bigText = "repeat(md5($1), 90)";

/** Makes the statements. `token` tells each from all others, in the column `body`. */
export class Operations {
  readonly #random: Random;
  readonly #scope: Scope;
  readonly #region: string;

  constructor(random: Random, scope: Scope, region: string) {
    this.#random = random;
    this.#scope = scope;
    this.#region = region;
  }

  next(token: string): Operation {
    const random = this.#random;
    const table = random.pick<Table>(contended);
    const dice = random.next();
    if (dice < 0.18) return this.#insert(table, token);
    if (dice < 0.26) return this.#upsert(table, token);
    if (dice < 0.58) return this.#update(table, token);
    if (dice < 0.72) return this.#delete(table);
    if (dice < 0.78) return this.#replace(table, token);
    if (dice < 0.88) return this.#move(table, token);
    if (dice < 0.92) return this.#updateAll(table, token);
    if (dice < 0.935) return this.#deleteSome(table);
    if (dice < 0.96) return this.#truncateOr(table, token);
    return this.#chown(token);
  }

  #key(table: Table): Key {
    return keyOf(table, this.#random, this.#scope);
  }

  /** Columns and values of a new row; $1 is the token. */
  #row(
    table: Table,
    key: Key,
  ): { readonly columns: string; readonly values: string; readonly bound: unknown[] } {
    const bound: unknown[] = [...key];
    const columns = [keyList(table), "body", "n"];
    const values = [...key.map((_, i) => `$${i + 2}${typeof key[i] === "number" ? "::int" : ""}`), "$1", "1"];
    if (table.owner !== null) {
      columns.push(table.owner);
      bound.push(this.#owner());
      values.push(`$${bound.length + 1}`);
    }
    if (table.big && this.#random.chance(0.3)) {
      columns.push("big");
      values.push(bigText);
    }
    return { columns: columns.join(", "), values: values.join(", "), bound };
  }

  #owner(): string | null {
    if (this.#random.chance(0.5)) return this.#region;
    const { regions } = this.#scope;
    return regions[this.#random.integer(0, regions.length)] ?? null;
  }

  #insert(table: Table, token: string): Operation {
    const { columns, values, bound } = this.#row(table, this.#key(table));
    const sql = `INSERT INTO ${table.name} (${columns}) VALUES (${values}) ON CONFLICT DO NOTHING ${returning(table)}`;
    return { table, name: "insert", sql, values: [token, ...bound] };
  }

  #upsert(table: Table, token: string): Operation {
    const { columns, values, bound } = this.#row(table, this.#key(table));
    const sql = `INSERT INTO ${table.name} AS t (${columns}) VALUES (${values})
      ON CONFLICT (${keyList(table)}) DO UPDATE SET body = excluded.body, n = t.n + 1 ${returning(table)}`;
    return { table, name: "upsert", sql, values: [token, ...bound] };
  }

  #update(table: Table, token: string): Operation {
    const big =
      !table.big || this.#random.chance(0.75) ? "" : `, big = ${this.#random.chance(0.8) ? bigText : "NULL"}`;
    const sql = `UPDATE ${table.name} SET body = $1, n = n + 1${big} WHERE ${isKey(table, 2)} ${returning(table)}`;
    return { table, name: "update", sql, values: [token, ...this.#key(table)] };
  }

  #delete(table: Table): Operation {
    const sql = `DELETE FROM ${table.name} WHERE ${isKey(table, 1)} ${returning(table)}`;
    return { table, name: "delete", sql, values: this.#key(table) };
  }

  /** Deletes and inserts a key in one statement. */
  #replace(table: Table, token: string): Operation {
    const key = this.#key(table);
    const { columns, values, bound } = this.#row(table, key);
    const sql = `WITH gone AS (DELETE FROM ${table.name} WHERE ${isKey(table, 2)} RETURNING 1)
      INSERT INTO ${table.name} (${columns}) SELECT ${values} FROM (SELECT count(*) FROM gone) AS g
      ON CONFLICT DO NOTHING ${returning(table)}`;
    return { table, name: "replace", sql, values: [token, ...bound] };
  }

  /** Changes a key. */
  #move(table: Table, token: string): Operation {
    const from = this.#key(table);
    const to = this.#key(table);
    const set = table.key.map((column, i) => `${column} = $${2 + from.length + i}`).join(", ");
    const free = `NOT EXISTS (SELECT FROM ${table.name} WHERE ${isKey(table, 2 + from.length)})`;
    const sql = `UPDATE ${table.name} SET ${set}, body = $1 WHERE ${isKey(table, 2)} AND ${free} ${returning(table)}`;
    return { table, name: "move", sql, values: [token, ...from, ...to] };
  }

  #updateAll(table: Table, token: string): Operation {
    const sql = `UPDATE ${table.name} SET body = $1, n = n + 1
      WHERE ${inScope(table.scope, this.#scope.prefix)} ${returning(table)}`;
    return { table, name: "update all", sql, values: [token] };
  }

  #deleteSome(table: Table): Operation {
    const sql = `DELETE FROM ${table.name} WHERE ${inScope(table.scope, this.#scope.prefix)} AND n % 3 = $1 ${returning(table)}`;
    return { table, name: "delete some", sql, values: [this.#random.integer(0, 2)] };
  }

  #truncateOr(table: Table, token: string): Operation {
    const [, , , scrap] = contended;
    if (table.name !== scrap.name) return this.#update(table, token);
    return { table: scrap, name: "truncate", sql: `TRUNCATE ${scrap.name}`, values: [], silent: true };
  }

  #chown(token: string): Operation {
    const [, owned] = contended;
    const sql = `UPDATE owned SET home_region = $2, body = $1 WHERE id = $3 ${returning(owned)}`;
    return { table: owned, name: "change owner", sql, values: [token, this.#owner(), ...this.#key(owned)] };
  }
}
