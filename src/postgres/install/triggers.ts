import { literal } from "../identifiers.ts";
import { gateName, ours, tableSlug } from "./names.ts";
import { gateOf, Statements, type StampedTable, type StampingRegion } from "./statements.ts";

export interface TriggerFunction {
  /** Unqualified, in schema `coregent`. */
  readonly name: string;
  readonly body: string;
  /**
   * Runs as its owner: it reads and writes relations which the writing role may not. Under a search_path of its own; the
   * others, which run for each row, name every operator, function and type by its schema instead: that costs nothing.
   */
  readonly definer: boolean;
  /**
   * Reads no table and writes none, but makes NEW. Declared STABLE, since PL/pgSQL takes a snapshot for each expression of
   * a VOLATILE function that asks for the time or a setting.
   */
  readonly computes: boolean;
}

export interface TableTrigger {
  readonly name: string;
  /** Everything between the trigger's name and EXECUTE FUNCTION, for the relation given (quoted). */
  readonly event: (relation: string) => string;
  readonly function: string;
  /** TRUNCATE triggers are not cloned to partitions: each has its own. */
  readonly everyPartition: boolean;
}

/**
 * Our names sort behind every ASCII name, so that our BEFORE triggers stamp what users' triggers made of the row,
 * and our AFTER triggers settle what they did.
 */
export const triggerPrefix = "~coregent_";

/** The settings that a function runs under, as the catalog has them (pg_proc.proconfig). */
export const settingsOf = ({ definer }: TriggerFunction): readonly string[] =>
  definer
    ? [
        "search_path=pg_catalog, pg_temp",
        // A plan is made once a session. Made for one bulk load, it would read whole relations for each row ever after.
        "enable_seqscan=off",
        "enable_hashjoin=off",
        "enable_mergejoin=off",
      ]
    : [];

export const createFunction = (fn: TriggerFunction): string => `
CREATE OR REPLACE FUNCTION ${ours(fn.name)}() RETURNS trigger LANGUAGE plpgsql ${fn.computes ? "STABLE" : "VOLATILE"}
SECURITY ${fn.definer ? "DEFINER" : "INVOKER"}${settingsOf(fn)
  .map((setting) => ` SET ${setting}`)
  .join("")}
AS ${literal(fn.body)};
REVOKE ALL ON FUNCTION ${ours(fn.name)}() FROM PUBLIC;`;

/** Stands for the relation in the text of the dynamic statement. */
const truncated = "{truncated relation}";

const onTruncated = (statement: string): string =>
  `EXECUTE replace(${literal(statement)}, ${literal(truncated)}, TG_RELID::regclass::text);`;

/**
 * ON CONFLICT names the key's columns bare, and any of them may be called as a variable is: one of ours, or `found`, `new`,
 * `tg_op`, `sqlstate`. There the column is meant. Ours stand in expressions without columns only.
 */
const revives = (statements: string): string => `#variable_conflict use_column
DECLARE
  role text;
  entombed bigint;
BEGIN${statements}
  RETURN NULL;
END`;

/** The functions of all triggers of a table. The text depends on nothing but the arguments. */
export const triggerFunctions = (table: StampedTable, region: StampingRegion): TriggerFunction[] => {
  const sql = new Statements(table, region);
  const slug = tableSlug(table.schema, table.table);
  const { partitioned } = table;
  // A row that moves to another partition is stamped again there, as an insert; it must stay above what it was.
  const carry = partitioned
    ? `
    PERFORM pg_catalog.set_config('coregent.stamp_above',
      greatest(${sql.highest("OLD")}, coregent.stamp_above())::pg_catalog.text, true);`
    : "";
  const inserted = partitioned ? sql.record("NEW") : "inserted";
  const gone = partitioned ? sql.record("OLD") : "gone";
  return [
    {
      name: `insert_${slug}`,
      definer: false,
      computes: true,
      body: `BEGIN
  NEW.cg_version := ${sql.next()};${sql.stampFresh()}
  RETURN NEW;
END`,
    },
    {
      name: `update_${slug}`,
      definer: false,
      computes: true,
      body: `BEGIN
  NEW.cg_version := ${sql.next(sql.highest("OLD"))};
  IF ${sql.keyChanged()} THEN${carry}${sql.stampFresh()}
  ELSE${sql.stampUponOld()}
  END IF;
  RETURN NEW;
END`,
    },
    {
      name: `inserted_${slug}`,
      definer: true,
      computes: false,
      body: revives(sql.probe(inserted) + sql.revive(inserted, "tombstone")),
    },
    { name: `entombed_${slug}`, definer: false, computes: false, body: sql.openGate() },
    {
      name: `deleted_${slug}`,
      definer: true,
      computes: false,
      body: revives(
        // A DELETE that finds nothing leaves the gate of inserts closed.
        (partitioned ? sql.entomb(gone) : sql.endWithout(gone) + sql.entombMany(gone)) +
          sql.revive(gone, "row"),
      ),
    },
    {
      name: `moved_${slug}`,
      definer: true,
      computes: false,
      body: revives(
        sql.entomb(sql.record("OLD")) +
          sql.revive(sql.record("OLD"), "row") +
          sql.probe(sql.record("NEW")) +
          sql.revive(sql.record("NEW"), "tombstone"),
      ),
    },
    {
      name: `truncate_${slug}`,
      definer: true,
      computes: false,
      // The relation may be any partition, also one that came later; TRUNCATE is rare enough for dynamic SQL.
      body: `BEGIN
  IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
    RAISE EXCEPTION 'TRUNCATE of the replicated table %.% needs isolation level READ COMMITTED',
      quote_ident(TG_TABLE_SCHEMA), quote_ident(TG_TABLE_NAME)
      USING ERRCODE = 'object_not_in_prerequisite_state',
        DETAIL = 'The snapshot of this transaction may lack rows whose deletion the other regions must learn of.',
        HINT = 'Truncate in a READ COMMITTED transaction, or use DELETE.';
  END IF;
  BEGIN
    ${onTruncated(sql.entombNew(truncated, sql.notEntombed()))}
  EXCEPTION WHEN unique_violation THEN
    ${onTruncated(sql.entomb(truncated, sql.notEntombed()))}
  END;
  RETURN NULL;
END`,
    },
  ];
};

/**
 * The gate of a table's inserts, and the trigger on its tombstone relation that opens it, for whoever writes tombstones:
 * local writes and merges. The gate is a sequence, since it can be read without a query, at once and by everybody, and
 * no abort undoes it. It has a value as long as it is closed: one that was made anew, or that a role may not read, is open.
 * It is opened before the first tombstone can be committed, so whoever has waited for that commit finds it open.
 */
export const entombedGate = (
  table: Pick<StampedTable, "schema" | "table">,
): { readonly sequence: string; readonly trigger: string; readonly function: string } => ({
  sequence: gateName(table.schema, table.table),
  trigger: `${triggerPrefix}entombed`,
  function: `entombed_${tableSlug(table.schema, table.table)}`,
});

/** The triggers of a table, in no order: each finds its own work by itself. */
export const tableTriggers = (
  table: Pick<StampedTable, "schema" | "table" | "partitioned">,
): TableTrigger[] => {
  const slug = tableSlug(table.schema, table.table);
  const trigger = (name: string, event: TableTrigger["event"], everyPartition = false): TableTrigger => ({
    name: triggerPrefix + name,
    event,
    function: `${name}_${slug}`,
    everyPartition,
  });
  // Statement triggers of a partitioned table do not fire for its partitions, and rows that move between partitions
  // fire row triggers only. Row triggers are cloned to partitions, later ones too.
  const each = (event: string, transition: string): TableTrigger["event"] =>
    table.partitioned
      ? (on) => `AFTER ${event} ON ${on} FOR EACH ROW`
      : (on) => `AFTER ${event} ON ${on} REFERENCING ${transition} FOR EACH STATEMENT`;
  const inserted = each("INSERT", "NEW TABLE AS inserted");
  return [
    trigger("insert", (on) => `BEFORE INSERT ON ${on} FOR EACH ROW`),
    trigger("update", (on) => `BEFORE UPDATE ON ${on} FOR EACH ROW`),
    // Where no tombstone of the table was ever written here, an insert cannot have met one. WHEN is judged once the rows are in.
    trigger(
      "inserted",
      (on) => `${inserted(on)} WHEN (pg_catalog.pg_sequence_last_value(${gateOf(table)}) IS NULL)`,
    ),
    trigger("deleted", each("DELETE", "OLD TABLE AS gone")),
    // Which the BEFORE trigger has set to 0 where the key changes, and there alone. The server prepares a trigger's WHEN
    // for each statement: a short one is worth having.
    trigger(
      "moved",
      (on) => `AFTER UPDATE ON ${on} FOR EACH ROW WHEN (NEW.cg_prev OPERATOR(pg_catalog.=) 0)`,
    ),
    trigger("truncate", (on) => `BEFORE TRUNCATE ON ${on} FOR EACH STATEMENT`, true),
  ];
};
