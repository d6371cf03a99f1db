import { createHash } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import type { ClientBase } from "pg";
import { qualified } from "../identifiers.ts";
import { ours, publicationName, tombstoneName } from "./names.ts";
import type { WantedTable } from "./table.ts";
import type { StampingRegion } from "./statements.ts";
import {
  createFunction,
  entombedGate,
  settingsOf,
  tableTriggers,
  triggerFunctions,
  type TriggerFunction,
} from "./triggers.ts";

/** Digest of all that is made for a table: another one means that it is to be made again. */
export const definitionOf = (table: WantedTable, region: StampingRegion): string =>
  createHash("md5")
    .update(
      JSON.stringify([
        table,
        triggerFunctions(table, region).map(createFunction),
        tableTriggers(table).map((trigger) => [trigger, trigger.event("x")]),
      ]),
    )
    .digest("hex");

interface Facts {
  definition: string | null;
  columns: string[];
  tombstone_there: boolean;
  gate_there: boolean;
  published: boolean;
  tombstone_published: boolean;
  triggers: { name: string; enabled: string; function: string }[];
  functions: { name: string; body: string; definer: boolean; config: string[] | null }[];
  partitions_without: string[];
  partitions_disabled: string[];
}

const factsSql = `
SELECT (SELECT definition FROM coregent.replicated_table WHERE name = $3) AS definition,
       ARRAY(SELECT attname::text FROM pg_attribute
              WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attname LIKE 'cg\\_%') AS columns,
       to_regclass($2) IS NOT NULL AS tombstone_there,
       to_regclass($7) IS NOT NULL AND has_sequence_privilege('public', to_regclass($7), 'SELECT')
         AND EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass($2) AND tgname = $8 AND tgenabled = 'A')
         AS gate_there,
       EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                WHERE p.pubname = $4 AND r.prrelid = $1::regclass) AS published,
       EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                WHERE p.pubname = $4 AND r.prrelid = to_regclass($2)) AS tombstone_published,
       (SELECT coalesce(json_agg(json_build_object('name', g.tgname, 'enabled', g.tgenabled, 'function', p.proname)), '[]')
          FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid
         WHERE g.tgrelid = $1::regclass AND NOT g.tgisinternal AND p.pronamespace = 'coregent'::regnamespace) AS triggers,
       (SELECT coalesce(json_agg(json_build_object(
                 'name', p.proname, 'body', p.prosrc, 'definer', p.prosecdef, 'config', p.proconfig)), '[]')
          FROM pg_proc p WHERE p.pronamespace = 'coregent'::regnamespace AND p.proname = ANY ($5::text[])) AS functions,
       ARRAY(SELECT x.relname::text FROM pg_partition_tree($1::regclass) t JOIN pg_class x ON x.oid = t.relid
              WHERE t.level > 0 AND NOT EXISTS (
                SELECT FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid
                 WHERE g.tgrelid = x.oid AND p.pronamespace = 'coregent'::regnamespace AND p.proname = $6
                   AND g.tgenabled = 'O')
              ORDER BY 1) AS partitions_without,
       ARRAY(SELECT DISTINCT x.relname::text FROM pg_partition_tree($1::regclass) t JOIN pg_class x ON x.oid = t.relid
               JOIN pg_trigger g ON g.tgrelid = x.oid JOIN pg_proc p ON p.oid = g.tgfoid
              WHERE t.level > 0 AND p.pronamespace = 'coregent'::regnamespace AND p.proname <> $6
                AND g.tgenabled <> 'O'
              ORDER BY 1) AS partitions_disabled`;

const isAsMade = (fn: TriggerFunction, facts: Facts): boolean =>
  facts.functions.some(
    (found) =>
      found.name === fn.name &&
      found.body === fn.body &&
      found.definer === fn.definer &&
      isDeepStrictEqual(found.config ?? [], settingsOf(fn)),
  );

/** What of a table is missing or is not as it would be made now, in words; empty: nothing is to be done. */
export const inspectTable = async (
  client: ClientBase,
  table: WantedTable,
  region: StampingRegion,
): Promise<{ readonly registered: boolean; readonly lacks: readonly string[] }> => {
  const functions = triggerFunctions(table, region);
  const gate = entombedGate(table);
  const truncate = functions.find((fn) => fn.name.startsWith("truncate_"));
  const { rows } = await client.query<Facts>(factsSql, [
    qualified(table.schema, table.table),
    ours(tombstoneName(table.schema, table.table)),
    table.name,
    publicationName,
    functions.map((fn) => fn.name),
    truncate?.name,
    ours(gate.sequence),
    gate.trigger,
  ]);
  const facts = rows[0];
  if (facts === undefined || facts.definition === null) return { registered: false, lacks: [] };
  const lacks: string[] = [];
  const columns = ["cg_version", "cg_prev", "cg_seen", ...(table.ownerColumn === null ? [] : ["cg_base"])];
  for (const column of columns) if (!facts.columns.includes(column)) lacks.push(`column ${column}`);
  if (!facts.tombstone_there) lacks.push("tombstone relation");
  else if (!facts.gate_there) lacks.push("gate of inserts");
  if (!facts.published) lacks.push("publication");
  if (facts.tombstone_there && !facts.tombstone_published) lacks.push("publication of tombstones");
  for (const trigger of tableTriggers(table)) {
    const found = facts.triggers.find((each) => each.name === trigger.name);
    if (found?.function !== trigger.function) lacks.push(`trigger ${trigger.name}`);
    else if (found.enabled !== "O") lacks.push(`trigger ${trigger.name}, which is disabled`);
  }
  for (const fn of functions) if (!isAsMade(fn, facts)) lacks.push(`function ${fn.name}`);
  for (const name of facts.partitions_without) lacks.push(`truncate trigger of partition ${name}`);
  for (const name of facts.partitions_disabled) lacks.push(`trigger of partition ${name}, which is disabled`);
  if (lacks.length === 0 && facts.definition !== definitionOf(table, region)) lacks.push("settings");
  return { registered: true, lacks };
};
