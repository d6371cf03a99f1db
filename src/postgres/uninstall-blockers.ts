import type { ClientBase } from "pg";
import { agentLockKey } from "./agent-lock.ts";
import { stateColumns } from "./table.ts";

/**
 * What stands in the way of uninstalling, looked at in every region before anything is changed in one of them.
 * The lock that it takes keeps agents from beginning to work for as long as the session lasts.
 */
export const uninstallBlockers = async (client: ClientBase): Promise<string[]> => {
  const { rows } = await client.query<{ free: boolean; installed: boolean }>(
    `SELECT pg_try_advisory_lock(${agentLockKey}) AS free,
            to_regclass('coregent.replicated_table') IS NOT NULL AS installed`,
  );
  const agent = rows[0]?.free === true ? [] : ["its agent works"];
  return rows[0]?.installed === true ? [...agent, ...(await readDependents(client))] : agent;
};

/**
 * What of the users' stands on ours and would be dropped with it, or keep it from being dropped: a default that calls
 * coregent.ulid(), a view that shows cg_version or the conflict log.
 */
const readDependents = async (client: ClientBase): Promise<string[]> => {
  const { rows } = await client.query<{ object: string }>(
    `WITH ours(class, object, column_number) AS (
       SELECT 'pg_class'::regclass, oid, NULL::int FROM pg_class WHERE relnamespace = 'coregent'::regnamespace
       UNION ALL
       SELECT 'pg_proc'::regclass, oid, NULL FROM pg_proc WHERE pronamespace = 'coregent'::regnamespace
       UNION ALL
       SELECT 'pg_type'::regclass, oid, NULL FROM pg_type WHERE typnamespace = 'coregent'::regnamespace
       UNION ALL
       SELECT 'pg_class'::regclass, a.attrelid, a.attnum
         FROM coregent.replicated_table r
         JOIN pg_attribute a ON a.attrelid = to_regclass(format('%I.%I', r.schema_name, r.table_name))
        WHERE a.attname = ANY ($1::text[])
     ), uses AS (
       SELECT DISTINCT d.classid, d.objid
         FROM ours JOIN pg_depend d ON d.refclassid = ours.class AND d.refobjid = ours.object
          AND d.refobjsubid = coalesce(ours.column_number, d.refobjsubid) AND d.deptype = 'n'
     ), theirs AS (
       SELECT u.classid, u.objid, c.oid AS relation, c.relnamespace AS namespace
         FROM uses u JOIN pg_attrdef x ON u.classid = 'pg_attrdef'::regclass AND x.oid = u.objid
         JOIN pg_class c ON c.oid = x.adrelid
         JOIN pg_attribute a ON a.attrelid = x.adrelid AND a.attnum = x.adnum AND a.attname <> ALL ($1::text[])
       UNION ALL
       SELECT 'pg_class'::regclass, c.oid, c.oid, c.relnamespace
         FROM uses u JOIN pg_rewrite x ON u.classid = 'pg_rewrite'::regclass AND x.oid = u.objid
         JOIN pg_class c ON c.oid = x.ev_class
       UNION ALL
       SELECT u.classid, u.objid, c.oid, c.relnamespace
         FROM uses u JOIN pg_class c ON u.classid = 'pg_class'::regclass AND c.oid = u.objid
       UNION ALL
       SELECT u.classid, u.objid, x.conrelid, x.connamespace
         FROM uses u JOIN pg_constraint x ON u.classid = 'pg_constraint'::regclass AND x.oid = u.objid
       UNION ALL
       SELECT u.classid, u.objid, c.oid, c.relnamespace
         FROM uses u JOIN pg_policy x ON u.classid = 'pg_policy'::regclass AND x.oid = u.objid
         JOIN pg_class c ON c.oid = x.polrelid
       UNION ALL
       SELECT u.classid, u.objid, NULL, p.pronamespace
         FROM uses u JOIN pg_proc p ON u.classid = 'pg_proc'::regclass AND p.oid = u.objid
       UNION ALL
       SELECT u.classid, u.objid, c.oid, c.relnamespace
         FROM uses u JOIN pg_trigger x ON u.classid = 'pg_trigger'::regclass AND x.oid = u.objid
         JOIN pg_proc p ON p.oid = x.tgfoid AND p.pronamespace <> 'coregent'::regnamespace
         JOIN pg_class c ON c.oid = x.tgrelid)
     SELECT DISTINCT pg_describe_object(classid, objid, 0) || ' depends on it' AS object
       FROM theirs WHERE namespace NOT IN ('coregent'::regnamespace, 'pg_toast'::regnamespace) ORDER BY 1`,
    [stateColumns],
  );
  return rows.map(({ object }) => object);
};
