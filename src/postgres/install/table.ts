import type { ClientBase } from "pg";
import { identifier, list, qualified } from "../identifiers.ts";
import { formerGateName, ours, publicationName, tableSlug, tombstoneName } from "./names.ts";
import { gateOf, type StampedTable, type StampingRegion } from "./statements.ts";
import { createFunction, entombedGate, tableTriggers, triggerFunctions } from "./triggers.ts";

/** A table to be replicated, as the topology and the catalog describe it. */
export interface WantedTable extends StampedTable {
  /** `schema.table`, unquoted. */
  readonly name: string;
  readonly conflictPolicy: string;
  readonly logsConflicts: boolean;
}

export const functionPrefixes = [
  "insert",
  "update",
  "inserted",
  "deleted",
  "moved",
  "truncate",
  "entombed",
] as const;

const publish = async (client: ClientBase, relation: string): Promise<void> => {
  const { rowCount } = await client.query(
    `SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
      WHERE p.pubname = $1 AND r.prrelid = $2::regclass`,
    [publicationName, relation],
  );
  if (rowCount === 0) await client.query(`ALTER PUBLICATION ${publicationName} ADD TABLE ONLY ${relation}`);
};

/**
 * Adds the state columns. A constant default is kept in the catalog and rewrites nothing; every row that is there gets
 * the baseline by it. It is taken away at once: a row that no trigger stamps is refused instead of being taken for one
 * of the first day.
 */
const addColumns = async (client: ClientBase, table: StampedTable, baseline: string): Promise<void> => {
  const relation = qualified(table.schema, table.table);
  await client.query(
    `ALTER TABLE ${relation}
       ADD COLUMN IF NOT EXISTS cg_version bigint NOT NULL DEFAULT ${BigInt(baseline)},
       ADD COLUMN IF NOT EXISTS cg_prev bigint NOT NULL DEFAULT 0,
       ADD COLUMN IF NOT EXISTS cg_seen bigint[]
       ${table.ownerColumn === null ? "" : ", ADD COLUMN IF NOT EXISTS cg_base bigint NOT NULL DEFAULT 0"}`,
  );
  await client.query(`ALTER TABLE ${relation} ALTER COLUMN cg_version DROP DEFAULT`);
};

const createTombstones = async (client: ClientBase, table: StampedTable): Promise<void> => {
  const tombstone = ours(tombstoneName(table.schema, table.table));
  const keys = list(table.key);
  const { rows } = await client.query<{ there: boolean }>("SELECT to_regclass($1) IS NOT NULL AS there", [
    tombstone,
  ]);
  if (rows[0]?.there === true) {
    if (table.ownerColumn !== null) {
      await client.query(
        `ALTER TABLE ${tombstone} ADD COLUMN IF NOT EXISTS cg_base bigint NOT NULL DEFAULT 0`,
      );
    }
    return;
  }
  // From a query, the columns get the key's types with their modifiers and collations.
  await client.query(
    `CREATE TABLE ${tombstone} AS SELECT ${keys} FROM ${qualified(table.schema, table.table)} WITH NO DATA`,
  );
  await client.query(
    `ALTER TABLE ${tombstone}
       ${table.ownerColumn === null ? "" : "ADD COLUMN cg_base bigint NOT NULL DEFAULT 0,"}
       ADD COLUMN cg_version bigint NOT NULL,
       ADD COLUMN cg_prev bigint NOT NULL DEFAULT 0,
       ADD COLUMN cg_seen bigint[],
       ADD PRIMARY KEY (${keys})`,
  );
};

/**
 * The version of rows that are there when a table is taken up, which no trigger has stamped: milliseconds taken for
 * microseconds, so in January 1970. They are below every write that was stamped, in whichever region and order the
 * regions are prepared: else rows of an old dump with which a region joins would overrule what the cluster wrote since.
 * A table taken up anew gets another one.
 */
const baselineSql = `
SELECT (((coregent.clock_us() / 1000) << 10) + coregent.region_id())::text AS baseline`;

/** Every partition below a relation, quoted, leaves and inner ones; none if it is not partitioned. */
const partitionsOf = async (client: ClientBase, relation: string): Promise<string[]> => {
  const { rows } = await client.query<{ schema: string; table: string }>(
    `SELECT n.nspname AS schema, c.relname AS table
       FROM pg_partition_tree($1::regclass) p JOIN pg_class c ON c.oid = p.relid
       JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.level > 0 ORDER BY 1, 2`,
    [relation],
  );
  return rows.map((row) => qualified(row.schema, row.table));
};

const createTriggers = async (
  client: ClientBase,
  table: StampedTable,
  region: StampingRegion,
): Promise<void> => {
  for (const fn of triggerFunctions(table, region)) await client.query(createFunction(fn));
  const root = qualified(table.schema, table.table);
  const partitions = table.partitioned ? await partitionsOf(client, root) : [];
  for (const trigger of tableTriggers(table)) {
    for (const relation of trigger.everyPartition ? [root, ...partitions] : [root]) {
      await client.query(`DROP TRIGGER IF EXISTS ${identifier(trigger.name)} ON ${relation}`);
      await client.query(
        `CREATE TRIGGER ${identifier(trigger.name)} ${trigger.event(relation)}
           EXECUTE FUNCTION ${ours(trigger.function)}()`,
      );
    }
  }
};

/** @returns whether it was not there. It is open then. */
const createGate = async (client: ClientBase, table: StampedTable): Promise<boolean> => {
  const gate = ours(entombedGate(table).sequence);
  const { rows } = await client.query<{ there: boolean }>("SELECT to_regclass($1) IS NOT NULL AS there", [
    gate,
  ]);
  const isNew = rows[0]?.there !== true;
  if (isNew) await client.query(`CREATE SEQUENCE ${gate}`);
  // Whoever may ask it for its next value could close it.
  await client.query(`REVOKE ALL ON SEQUENCE ${gate} FROM PUBLIC`);
  await client.query(`GRANT SELECT ON SEQUENCE ${gate} TO PUBLIC`);
  return isNew;
};

/**
 * To be called when the functions are there. The lock that the trigger takes keeps out all who write tombstones; those
 * who did before have committed then.
 */
const guardTombstones = async (
  client: ClientBase,
  table: StampedTable,
  { gateIsNew }: { readonly gateIsNew: boolean },
): Promise<void> => {
  const gate = entombedGate(table);
  const tombstone = ours(tombstoneName(table.schema, table.table));
  await client.query(`DROP TRIGGER IF EXISTS ${identifier(gate.trigger)} ON ${tombstone}`);
  await client.query(
    `CREATE TRIGGER ${identifier(gate.trigger)} BEFORE INSERT ON ${tombstone}
       FOR EACH STATEMENT EXECUTE FUNCTION ${ours(gate.function)}()`,
  );
  // Merges write under the replica role.
  await client.query(`ALTER TABLE ${tombstone} ENABLE ALWAYS TRIGGER ${identifier(gate.trigger)}`);
  // Tombstones may have come while nothing opened it: the trigger was disabled, or an older version was installed.
  const settle = gateIsNew
    ? `nextval(${gateOf(table)}) WHERE NOT`
    : `setval(${gateOf(table)}, 1, false) WHERE`;
  await client.query(`SELECT ${settle} EXISTS (SELECT FROM ${tombstone})`);
  await client.query(`DROP SEQUENCE IF EXISTS ${ours(formerGateName(table.schema, table.table))}`);
};

/**
 * Makes a table replicated, or brings all that belongs to it into its right form again. To be called in a transaction:
 * it takes the table's strongest lock first, so no writer sees half of it.
 */
export const takeUpTable = async (
  client: ClientBase,
  table: WantedTable,
  options: { readonly region: StampingRegion; readonly definition: string },
): Promise<void> => {
  const relation = qualified(table.schema, table.table);
  await client.query(`LOCK TABLE ${relation} IN ACCESS EXCLUSIVE MODE`);
  const { rows } = await client.query<{ baseline: string }>(baselineSql);
  const baseline = rows[0]?.baseline ?? "0";
  await addColumns(client, table, baseline);
  await createTombstones(client, table);
  const gateIsNew = await createGate(client, table);
  await createTriggers(client, table, options.region);
  await guardTombstones(client, table, { gateIsNew });
  await publish(client, relation);
  await publish(client, ours(tombstoneName(table.schema, table.table)));
  await client.query(
    `INSERT INTO coregent.replicated_table (name, schema_name, table_name, tombstone, key_columns, owner_column,
       failover, conflict_policy, logs_conflicts, baseline, definition)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
     ON CONFLICT (name) DO UPDATE SET owner_column = excluded.owner_column, failover = excluded.failover,
       conflict_policy = excluded.conflict_policy, definition = excluded.definition`,
    [
      table.name,
      table.schema,
      table.table,
      tombstoneName(table.schema, table.table),
      table.key,
      table.ownerColumn,
      table.failover,
      table.conflictPolicy,
      table.logsConflicts,
      baseline,
      options.definition,
    ],
  );
};

/** Takes everything off a table again that `takeUpTable` made; its own columns and rows stay. In a transaction. */
export const releaseTable = async (
  client: ClientBase,
  table: { readonly name: string; readonly schema: string; readonly table: string },
): Promise<void> => {
  const relation = qualified(table.schema, table.table);
  const { rows } = await client.query<{ there: boolean }>("SELECT to_regclass($1) IS NOT NULL AS there", [
    relation,
  ]);
  const slug = tableSlug(table.schema, table.table);
  if (rows[0]?.there === true) await client.query(`LOCK TABLE ${relation} IN ACCESS EXCLUSIVE MODE`);
  for (const prefix of functionPrefixes) {
    // The triggers go with their functions, wherever they are by now: the table may have another name, a partition
    // may have been detached.
    await client.query(`DROP FUNCTION IF EXISTS ${ours(`${prefix}_${slug}`)}() CASCADE`);
  }
  if (rows[0]?.there === true) {
    await unpublish(client, relation);
    await client.query(
      `ALTER TABLE ${relation} DROP COLUMN IF EXISTS cg_version, DROP COLUMN IF EXISTS cg_prev,
         DROP COLUMN IF EXISTS cg_seen, DROP COLUMN IF EXISTS cg_base`,
    );
  }
  await client.query(`DROP TABLE IF EXISTS ${ours(tombstoneName(table.schema, table.table))}`);
  const gates = [entombedGate(table).sequence, formerGateName(table.schema, table.table)];
  await client.query(`DROP SEQUENCE IF EXISTS ${gates.map(ours).join(", ")}`);
  await client.query("DELETE FROM coregent.replicated_table WHERE name = $1", [table.name]);
  await client.query("DELETE FROM coregent.table_sync WHERE table_name = $1", [table.name]);
  await client.query("DELETE FROM coregent.quarantine WHERE table_name = $1", [table.name]);
};

const unpublish = async (client: ClientBase, relation: string): Promise<void> => {
  const { rowCount } = await client.query(
    `SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
      WHERE p.pubname = $1 AND r.prrelid = $2::regclass`,
    [publicationName, relation],
  );
  if (rowCount !== 0) await client.query(`ALTER PUBLICATION ${publicationName} DROP TABLE ONLY ${relation}`);
};
