import type { ClientBase } from "pg";

/** Functions of replication origins, as GRANT names them; a role needs EXECUTE on all to use origins. */
export const originFunctions = [
  "pg_replication_origin_create(text)",
  "pg_replication_origin_drop(text)",
  "pg_replication_origin_oid(text)",
  "pg_replication_origin_session_setup(text)",
  "pg_replication_origin_session_reset()",
  "pg_replication_origin_session_is_setup()",
] as const;

/** With which the agent has restart points logged for peers that are behind. */
export const restartPointFunction = "pg_log_standby_snapshot()";

/** What one server says of itself, of our role and of what Coregent has there. */
export interface ServerFacts {
  readonly versionNum: number;
  /** Of pg_control_system: the same for databases of one server. */
  readonly system: string;
  readonly database: string;
  readonly databaseOid: number;
  readonly encoding: string;
  readonly inRecovery: boolean;
  readonly settings: Readonly<Record<string, string>>;
  readonly role: {
    readonly name: string;
    readonly superuser: boolean;
    readonly replication: boolean;
    readonly bypassRls: boolean;
    readonly setReplicationRole: boolean;
    readonly createInDatabase: boolean;
    /** Those of `originFunctions`, and `restartPointFunction`, which it may not execute. */
    readonly missingFunctions: readonly string[];
  };
  readonly slots: readonly Slot[];
  readonly walSenders: number;
  readonly origins: readonly string[];
  readonly publication: {
    readonly owned: boolean;
    readonly insert: boolean;
    readonly update: boolean;
    readonly delete: boolean;
    readonly truncate: boolean;
    readonly viaRoot: boolean;
    /** `schema.table` of each member. */
    readonly members: readonly string[];
  } | null;
  /** Schema `coregent` is there. */
  readonly schema: { readonly owner: string; readonly owned: boolean } | null;
  /** It has the table `coregent.local`. */
  readonly installed: boolean;
}

export interface Slot {
  readonly name: string;
  readonly database: string | null;
  readonly plugin: string | null;
  readonly walStatus: string | null;
  /** PostgreSQL 17 and later. */
  readonly invalidation: string | null;
}

const settingNames = [
  "wal_level",
  "max_replication_slots",
  "max_wal_senders",
  "max_active_replication_origins",
  "max_slot_wal_keep_size",
  "idle_replication_slot_timeout",
  "default_transaction_read_only",
];

const factsSql = `
SELECT json_build_object(
  'versionNum', current_setting('server_version_num')::int,
  'system', (SELECT system_identifier::text FROM pg_control_system()),
  'database', current_database(),
  'databaseOid', (SELECT oid::bigint FROM pg_database WHERE datname = current_database()),
  'encoding', getdatabaseencoding(),
  'inRecovery', pg_is_in_recovery(),
  'settings', (SELECT json_object_agg(name, setting) FROM pg_settings WHERE name = ANY ($1::text[])),
  'role', (SELECT json_build_object(
      'name', rolname, 'superuser', rolsuper, 'replication', rolreplication OR rolsuper,
      'bypassRls', rolbypassrls OR rolsuper,
      'setReplicationRole', has_parameter_privilege('session_replication_role', 'SET'),
      'createInDatabase', has_database_privilege(current_database(), 'CREATE'),
      'missingFunctions', (SELECT coalesce(json_agg(f), '[]') FROM unnest($2::text[]) AS f
                            WHERE NOT has_function_privilege('pg_catalog.' || f, 'EXECUTE')))
      FROM pg_roles WHERE rolname = current_user),
  'slots', (SELECT coalesce(json_agg(json_build_object(
      'name', slot_name, 'database', database, 'plugin', plugin, 'walStatus', wal_status,
      'invalidation', to_jsonb(s) ->> 'invalidation_reason') ORDER BY slot_name), '[]')
      FROM pg_replication_slots s WHERE NOT temporary),
  'walSenders', (SELECT count(*) FROM pg_stat_replication),
  'origins', (SELECT coalesce(json_agg(roname ORDER BY roname), '[]') FROM pg_replication_origin),
  'publication', (SELECT json_build_object(
      'owned', pg_has_role(pubowner, 'USAGE'), 'insert', pubinsert, 'update', pubupdate, 'delete', pubdelete,
      'truncate', pubtruncate, 'viaRoot', pubviaroot,
      'members', (SELECT coalesce(json_agg(n.nspname || '.' || c.relname), '[]')
                    FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid
                    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE r.prpubid = p.oid))
      FROM pg_publication p WHERE pubname = 'coregent'),
  'schema', (SELECT json_build_object('owner', pg_get_userbyid(nspowner), 'owned', pg_has_role(nspowner, 'USAGE'))
               FROM pg_namespace WHERE nspname = 'coregent'),
  'installed', to_regclass('coregent.local') IS NOT NULL AND to_regclass('coregent.replicated_table') IS NOT NULL
) AS facts`;

/** One round trip; needs no rights beyond a login. */
export const readServerFacts = async (client: ClientBase): Promise<ServerFacts> => {
  const result = await client.query<{ facts: ServerFacts }>(factsSql, [
    settingNames,
    [...originFunctions, restartPointFunction],
  ]);
  const facts = result.rows[0]?.facts;
  if (facts === undefined) throw new Error("the server answered nothing");
  return facts;
};

/** What `init` wrote down in this database. */
export interface InstalledFacts {
  readonly local: {
    readonly cluster: string;
    readonly regionId: number;
    readonly regionName: string;
    readonly incarnation: string;
  } | null;
  readonly tables: readonly InstalledTable[];
}

export interface InstalledTable {
  readonly name: string;
  readonly tombstone: string;
  readonly tombstoneExists: boolean;
  readonly key: readonly string[];
  readonly ownerColumn: string | null;
  readonly failover: "takeover" | "provisional";
  readonly partitioned: boolean;
}

/** Null where Coregent is not installed. `denied`: it is, and our role may not read it. */
export const readInstalledFacts = async (client: ClientBase): Promise<InstalledFacts> => {
  const result = await client.query<{ facts: InstalledFacts }>(`
SELECT json_build_object(
  'local', (SELECT json_build_object('cluster', cluster, 'regionId', region_id, 'regionName', region_name,
                                     'incarnation', incarnation) FROM coregent.local LIMIT 1),
  'tables', (SELECT coalesce(json_agg(json_build_object(
      'name', name, 'tombstone', tombstone, 'key', key_columns, 'ownerColumn', owner_column, 'failover', failover,
      'tombstoneExists', to_regclass(format('coregent.%I', tombstone)) IS NOT NULL,
      'partitioned', coalesce((SELECT c.relkind = 'p' FROM pg_class c
                                WHERE c.oid = to_regclass(format('%I.%I', schema_name, table_name))), false))
      ORDER BY name), '[]') FROM coregent.replicated_table)) AS facts`);
  const facts = result.rows[0]?.facts;
  if (facts === undefined) throw new Error("the server answered nothing");
  return facts;
};

/** The server's clock against ours, in microseconds, and how far off that may be (half the round trip). */
export interface ClockFacts {
  readonly offsetUs: number;
  readonly uncertaintyUs: number;
}

/** The best of three measurements: the one with the shortest round trip. */
export const measureClock = async (
  client: ClientBase,
  clock: { readonly now: () => number; readonly monotonic: () => number },
): Promise<ClockFacts> => {
  let best: ClockFacts | null = null;
  for (let round = 0; round < 3; round++) {
    const start = clock.monotonic();
    const startedAt = clock.now();
    const result = await client.query<{ us: string }>(
      `SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint::text AS us`,
    );
    const elapsedMs = clock.monotonic() - start;
    const measured = {
      offsetUs: Number(result.rows[0]?.us) - (startedAt + elapsedMs / 2) * 1000,
      uncertaintyUs: (elapsedMs / 2) * 1000,
    };
    if (best === null || measured.uncertaintyUs < best.uncertaintyUs) best = measured;
  }
  return best ?? { offsetUs: 0, uncertaintyUs: Infinity };
};
