import type { Client } from "pg";
import type { Random } from "../../src/demo/random.ts";
import type { TestRegion } from "../../src/testing/index.ts";
import type { History, KeyState, Write } from "./history.ts";
import { Operations, type Operation, type Scope } from "./operations.ts";
import { Rollback, Session, pause } from "./session.ts";
import { inScope, type Table } from "./tables.ts";
import type { GroupRecord } from "./whole.ts";

export interface WriterParts {
  readonly region: TestRegion;
  readonly name: string;
  readonly random: Random;
  readonly scope: Scope;
  readonly problem: (text: string) => void;
  readonly stop: AbortSignal;
}

/** A local statement that waits longer for a lock fails, and with it the schedule: merges must yield. */
const settings = ["lock_timeout = '15s'"];

const keyText = (table: Table, alias: string): string =>
  `jsonb_build_array(${table.key.map((column) => `${alias}.${column}::text`).join(", ")})::text`;

/** States of a table and its tombstones, in one statement. */
export const statesSql = (
  table: Table,
  options: { readonly tombstone: string; readonly prefix: string; readonly where?: string },
): string => {
  const where = `WHERE ${inScope(`t.${table.scope}`, options.prefix)} ${options.where ?? ""}`;
  const stamp = `${table.owner === null ? "0" : "t.cg_base"}::text AS base, t.cg_version::text AS version,
    t.cg_prev::text AS prev, coalesce(t.cg_seen, '{}')::text[] AS seen`;
  const content = table.content.map((column) => `'${column}', t.${column}::text`).join(", ");
  return `SELECT '${table.name}' AS "table", ${keyText(table, "t")} AS key, 'row' AS kind, ${stamp},
                 json_build_object(${content}) AS content FROM ${table.name} t ${where}
    UNION ALL SELECT '${table.name}', ${keyText(table, "t")}, 'tombstone', ${stamp}, NULL
                FROM coregent.${options.tombstone} t ${where}`;
};

export interface StateRow {
  readonly table: string;
  readonly key: string;
  readonly kind: "row" | "tombstone";
  readonly base: string;
  readonly version: string;
  readonly prev: string;
  readonly seen: readonly string[];
  readonly content: Readonly<Record<string, string | null>> | null;
}

export const stateOf = (row: StateRow): KeyState => ({
  kind: row.kind,
  base: BigInt(row.base),
  version: BigInt(row.version),
  prev: BigInt(row.prev),
  seen: row.seen.map(BigInt),
  content: row.content,
});

/** Quoted names of the tombstone relations, by table. The same in every region. */
export type Tombstones = ReadonlyMap<string, string>;

/** Writes to keys that every region writes, and keeps a record of what it wrote. */
export class ContendedWriter {
  readonly #parts: WriterParts;
  readonly #session: Session;
  readonly #operations: Operations;
  readonly #history: History;
  readonly #tombstones: Tombstones;
  #count = 0;

  constructor(parts: WriterParts, history: History, tombstones: Tombstones) {
    this.#parts = parts;
    this.#session = new Session(parts.region, { settings, problem: parts.problem });
    this.#operations = new Operations(parts.random, parts.scope, parts.region.name);
    this.#history = history;
    this.#tombstones = tombstones;
  }

  async run(): Promise<void> {
    const { random, stop } = this.#parts;
    while (!stop.aborted) {
      await this.#transaction();
      await pause(random.integer(0, 40));
    }
    await this.#session.end();
  }

  async #transaction(): Promise<void> {
    const { random } = this.#parts;
    const statements = random.chance(0.6) ? 1 : random.integer(2, 5);
    const operations = Array.from({ length: statements }, () => this.#operations.next(this.#token()));
    const givesUp = random.chance(0.05);
    const isolation = random.chance(0.15) ? " ISOLATION LEVEL REPEATABLE READ" : "";
    // A TRUNCATE with a snapshot of its own is refused, and it waits for all who write, who may wait for it.
    const truncates = operations.some(({ name }) => name === "truncate");
    const made: Write[] = [];
    const ending = await this.#session.transaction(
      truncates ? "BEGIN" : `BEGIN${isolation}`,
      async (client) => {
        for (const operation of operations) {
          const { rows } = await client.query<Record<string, string>>(operation.sql, [...operation.values]);
          if (rows.length > 0 || operation.silent === true)
            made.push(...(await this.#written(client, operation, rows)));
        }
        if (givesUp) throw new Rollback();
      },
    );
    this.#history.record(made, ending);
  }

  #token(): string {
    this.#count += 1;
    return `${this.#parts.name}.${this.#count}`;
  }

  /** What this transaction has made of the table so far. */
  async #written(
    client: Client,
    operation: Operation,
    returned: readonly Readonly<Record<string, string>>[],
  ): Promise<Write[]> {
    const { region, scope, problem } = this.#parts;
    const { table } = operation;
    const tombstone = this.#tombstones.get(table.name) ?? "";
    // Also of its subtransactions, which have ids of their own: what can be seen and is in progress is ours.
    const ours = "AND pg_xact_status(t.xmin::text::xid8) = 'in progress'";
    const { rows } = await client.query<StateRow>(
      statesSql(table, { tombstone, prefix: scope.prefix, where: ours }),
    );
    const keys = new Set(rows.map(({ key }) => key));
    for (const row of returned) {
      // As jsonb writes it.
      const key = `[${table.key.map((column) => JSON.stringify(row[column])).join(", ")}]`;
      if (!keys.has(key))
        problem(`${region.name}: ${operation.name} of ${table.name} ${key} left no state of its own`);
    }
    return rows.map((row) => ({ ...stateOf(row), table: row.table, key: row.key, region: region.name }));
  }
}

/** Writes groups of rows that nobody else writes: each transaction writes all rows of a group, in two tables. */
export class GroupWriter {
  readonly #parts: WriterParts;
  readonly #session: Session;
  readonly #record: GroupRecord;
  readonly #rounds = new Map<string, number | null>();
  /** Rows in each table of a group that is written twice; 0: there is none. */
  readonly #huge: number;

  constructor(parts: WriterParts, record: GroupRecord, huge: number) {
    this.#parts = parts;
    this.#session = new Session(parts.region, { settings, problem: parts.problem });
    this.#record = record;
    this.#huge = huge;
  }

  async run(): Promise<void> {
    const { random, stop, scope, name } = this.#parts;
    for (let count = 1; !stop.aborted; count += 1) {
      const largest = random.chance(0.9) ? 12 : 200;
      if (this.#huge > 0 && (count === 10 || count === 20))
        await this.#write(`${scope.prefix}${name}.huge`, this.#huge);
      else await this.#write(`${scope.prefix}${name}.${random.integer(1, 4)}`, largest);
      await pause(random.integer(5, 60));
    }
    await this.#session.end();
  }

  async #write(grp: string, largest: number): Promise<void> {
    const { random } = this.#parts;
    const now = this.#rounds.get(grp) ?? null;
    const deletes = largest !== this.#huge && now !== null && random.chance(0.3);
    const inserts = now === null || (deletes && random.chance(0.7));
    const round = deletes && !inserts ? null : (now ?? 0) + 1;
    const tables = random.chance(0.5) ? ["group_a", "group_b"] : ["group_b", "group_a"];
    const sizes = new Map(
      tables.map((table) => [table, largest === this.#huge ? largest : random.integer(1, largest)]),
    );
    const ending = await this.#session.transaction("BEGIN", async (client) => {
      for (const table of tables) {
        if (deletes) await client.query(`DELETE FROM ${table} WHERE grp = $1`, [grp]);
        if (inserts)
          await client.query(
            `INSERT INTO ${table} (grp, i, round, of_a, of_b) SELECT $1, i, $2, $3, $4 FROM generate_series(1, $5::int) AS i`,
            [grp, round, sizes.get("group_a"), sizes.get("group_b"), sizes.get(table)],
          );
        else if (!deletes) await client.query(`UPDATE ${table} SET round = $2 WHERE grp = $1`, [grp, round]);
      }
    });
    if (ending === "aborted") return;
    if (ending === "unknown") this.#record.unknown(grp, round);
    else this.#record.acknowledged(grp, round);
    this.#rounds.set(grp, ending === "unknown" ? await this.#ask(grp) : round);
  }

  /** What became of a transaction whose COMMIT was not answered: what is there now is durable. */
  async #ask(grp: string): Promise<number | null> {
    for (;;) {
      const rows = await this.#session.read<{ round: number | null }>(
        "SELECT max(round) AS round FROM group_a WHERE grp = $1",
        [grp],
      );
      if (rows !== null) {
        const round = rows[0]?.round ?? null;
        this.#record.acknowledged(grp, round);
        return round;
      }
      if (this.#parts.stop.aborted) return null;
    }
  }
}
