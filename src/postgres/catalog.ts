import type { ClientBase } from "pg";
import type { Column, ReplicatedTable } from "./table.ts";

/** JSON array of a relation's live columns in attribute order; `relation` is an SQL expression of type oid. */
const columnsOf = (relation: string): string => `(
  SELECT coalesce(json_agg(json_build_object(
           'name', a.attname,
           'typeOid', a.atttypid::bigint,
           'type', format_type(a.atttypid, a.atttypmod),
           'typeSchema', tn.nspname,
           'typeName', t.typname,
           'notNull', a.attnotnull,
           'generated', a.attgenerated <> '') ORDER BY a.attnum), '[]')
    FROM pg_attribute a
    JOIN pg_type t ON t.oid = a.atttypid
    JOIN pg_namespace tn ON tn.oid = t.typnamespace
   WHERE a.attrelid = ${relation} AND a.attnum > 0 AND NOT a.attisdropped)`;

const installedTablesSql = `
SELECT r.name, r.schema_name, r.table_name, r.tombstone, r.key_columns, r.owner_column, r.failover, r.logs_conflicts,
       c.relkind = 'p' AS partitioned,
       ${columnsOf("c.oid")} AS columns,
       ${columnsOf("d.oid")} AS tombstone_columns
  FROM coregent.replicated_table r
  JOIN pg_namespace n ON n.nspname = r.schema_name
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = r.table_name AND c.relkind IN ('r', 'p')
  JOIN pg_namespace dn ON dn.nspname = 'coregent'
  JOIN pg_class d ON d.relnamespace = dn.oid AND d.relname = r.tombstone
 ORDER BY r.name COLLATE "C"`;

interface InstalledRow {
  name: string;
  schema_name: string;
  table_name: string;
  tombstone: string;
  key_columns: string[];
  owner_column: string | null;
  failover: "takeover" | "provisional";
  logs_conflicts: boolean;
  partitioned: boolean;
  columns: Column[];
  tombstone_columns: Column[];
}

/**
 * The installed tables as this server's catalog shows them, ordered by name (bytewise), in one round trip.
 * A table which has been dropped since is left out; `check` reports it. Needs schema `coregent`
 * (else SQLSTATE 42P01).
 */
export const readTables = async (client: ClientBase): Promise<ReplicatedTable[]> => {
  const result = await client.query<InstalledRow>(installedTablesSql);
  return result.rows.map((row) => ({
    name: row.name,
    schema: row.schema_name,
    table: row.table_name,
    partitioned: row.partitioned,
    columns: row.columns,
    key: row.key_columns,
    ownerColumn: row.owner_column,
    failover: row.failover,
    tombstone: row.tombstone,
    tombstoneColumns: row.tombstone_columns,
    logsConflicts: row.logs_conflicts,
  }));
};

/** A sequence that fills a column: by identity, serial or a plain `DEFAULT nextval(...)`. */
export interface ColumnSequence {
  readonly schema: string;
  readonly name: string;
  readonly increment: string;
  /** The last value given out, else one step below the start: the sequence goes on from it. Decimal text. */
  readonly position: string;
}

export interface CandidateColumn extends Column {
  /** '' none, 'a' GENERATED ALWAYS AS IDENTITY, 'd' BY DEFAULT. */
  readonly identity: "" | "a" | "d";
  readonly default: string | null;
  readonly sequence: ColumnSequence | null;
  /** Name of the type that a domain stands on; else the type's own. */
  readonly baseType: string;
  readonly isEnum: boolean;
}

export interface KeyColumn {
  readonly name: string;
  readonly operatorClass: string;
  /** The operator class says that equal values are equal bytes (btree support function 4, collation). */
  readonly equalImage: boolean;
  /** Name of a collation that is not deterministic; null otherwise. */
  readonly nondeterministic: string | null;
}

export interface UniqueConstraint {
  readonly name: string;
  readonly columns: readonly string[];
  readonly deferrable: boolean;
  readonly exclusion: boolean;
}

export interface ForeignKey {
  readonly name: string;
  readonly schema: string;
  readonly table: string;
  readonly columns: readonly string[];
  readonly refSchema: string;
  readonly refTable: string;
  readonly refColumns: readonly string[];
  /** pg_constraint.confmatchtype: s simple, f full. */
  readonly match: string;
}

export interface UserTrigger {
  readonly name: string;
  /** pg_trigger.tgenabled: O origin, D disabled, R replica, A always. */
  readonly enabled: "O" | "D" | "R" | "A";
  /** Made by Coregent: its function lives in schema `coregent`. */
  readonly ours: boolean;
}

/** A table of a schema that is to be replicated, with all that decides whether it can be. */
export interface Candidate {
  readonly oid: number;
  readonly name: string;
  readonly schema: string;
  readonly table: string;
  readonly kind: "table" | "partitioned" | "foreign";
  readonly persistence: "permanent" | "unlogged" | "temporary";
  /** pg_class.relreplident: d default, n nothing, f full, i index. */
  readonly replicaIdentity: "d" | "n" | "f" | "i";
  readonly owner: string;
  readonly ownerIsSuperuser: boolean;
  /** The current role has the owner's rights. */
  readonly owned: boolean;
  readonly schemaUsable: boolean;
  readonly rowSecurity: boolean;
  readonly forceRowSecurity: boolean;
  /** By INHERITS, not by partitioning. */
  readonly inherits: boolean;
  readonly inheritedFrom: boolean;
  /** All partitions below a partitioned table, with what `check` wants to know of each. */
  readonly partitions: readonly {
    readonly schema: string;
    readonly table: string;
    readonly persistence: "permanent" | "unlogged" | "temporary";
    readonly kind: "table" | "partitioned" | "foreign";
    readonly replicaIdentity: string;
    /** A partition may have another owner than its table. */
    readonly owner: string;
    readonly ownerIsSuperuser: boolean;
    readonly owned: boolean;
    readonly triggers: readonly UserTrigger[];
    readonly rules: readonly string[];
  }[];
  readonly columns: readonly CandidateColumn[];
  readonly primaryKey: {
    readonly name: string;
    readonly deferrable: boolean;
    readonly columns: readonly KeyColumn[];
  } | null;
  /** Unique constraints, unique indexes and exclusion constraints besides the primary key. */
  readonly uniques: readonly UniqueConstraint[];
  readonly foreignKeys: readonly ForeignKey[];
  readonly rules: readonly string[];
  readonly triggers: readonly UserTrigger[];
  /** Of a typed table (`CREATE TABLE ... OF type`) its type, as SQL names it. */
  readonly ofType: string | null;
  /** Columns, here or in another relation, that hold rows of this table or of a partition of it: see {@link rowTypeUses}. */
  readonly rowTypeUses: readonly RowTypeUse[];
}

/** A column that stores rows of a table: as they are, or within an array, domain, range or other composite type. */
export interface RowTypeUse {
  readonly schema: string;
  readonly relation: string;
  readonly column: string;
  /** A column's type can be changed in a table; a materialized view and an index are made anew. */
  readonly kind: "table" | "materialized view" | "index";
}

const persistence = (c: string): string =>
  `CASE ${c}.relpersistence WHEN 'u' THEN 'unlogged' WHEN 't' THEN 'temporary' ELSE 'permanent' END`;
const kind = (c: string): string =>
  `CASE ${c}.relkind WHEN 'p' THEN 'partitioned' WHEN 'f' THEN 'foreign' ELSE 'table' END`;
const triggersOf = (relation: string): string => `(
  SELECT coalesce(json_agg(json_build_object('name', g.tgname, 'enabled', g.tgenabled,
           'ours', pn.nspname = 'coregent') ORDER BY g.tgname), '[]')
    FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid JOIN pg_namespace pn ON pn.oid = p.pronamespace
   WHERE g.tgrelid = ${relation} AND NOT g.tgisinternal)`;
const rulesOf = (relation: string): string => `(
  SELECT coalesce(json_agg(w.rulename ORDER BY w.rulename), '[]') FROM pg_rewrite w WHERE w.ev_class = ${relation})`;
const namesOf = (relation: string, numbers: string): string => `(
  SELECT json_agg(a.attname ORDER BY k.i) FROM unnest(${numbers}) WITH ORDINALITY AS k(attnum, i)
    JOIN pg_attribute a ON a.attrelid = ${relation} AND a.attnum = k.attnum)`;

const sequenceOf = `(
  SELECT json_build_object('schema', sn.nspname, 'name', s.relname, 'increment', q.seqincrement::text,
           'position', coalesce(
             CASE WHEN has_sequence_privilege(s.oid, 'SELECT, USAGE') THEN pg_sequence_last_value(s.oid) END,
             q.seqstart - q.seqincrement)::text)
    FROM pg_depend d
    JOIN pg_class s ON s.oid = CASE WHEN d.classid = 'pg_attrdef'::regclass THEN d.refobjid ELSE d.objid END
                   AND s.relkind = 'S'
    JOIN pg_namespace sn ON sn.oid = s.relnamespace
    JOIN pg_sequence q ON q.seqrelid = s.oid
   WHERE (a.attidentity <> '' AND d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
          AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype = 'i')
      OR (d.classid = 'pg_attrdef'::regclass AND d.objid = ad.oid AND d.refclassid = 'pg_class'::regclass)
   LIMIT 1)`;

const candidateColumns = `(
  SELECT coalesce(json_agg(json_build_object(
           'name', a.attname, 'typeOid', a.atttypid::bigint, 'type', format_type(a.atttypid, a.atttypmod),
           'typeSchema', tn.nspname, 'typeName', t.typname, 'notNull', a.attnotnull,
           'generated', a.attgenerated <> '', 'identity', a.attidentity,
           'default', CASE WHEN a.attgenerated = '' THEN pg_get_expr(ad.adbin, ad.adrelid) END,
           'baseType', bt.typname, 'isEnum', bt.typtype = 'e',
           'sequence', ${sequenceOf}) ORDER BY a.attnum), '[]')
    FROM pg_attribute a
    JOIN pg_type t ON t.oid = a.atttypid
    JOIN pg_namespace tn ON tn.oid = t.typnamespace
    JOIN pg_type bt ON bt.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
    LEFT JOIN pg_attrdef ad ON ad.adrelid = a.attrelid AND ad.adnum = a.attnum
   WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)`;

// bpchar without a length keeps trailing blanks and compares without them, whatever its operator class says.
const primaryKey = `(
  SELECT json_build_object('name', ic.relname, 'deferrable', NOT i.indimmediate, 'columns', (
           SELECT json_agg(json_build_object(
                    'name', a.attname, 'operatorClass', o.opcname,
                    'equalImage', EXISTS (
                       SELECT FROM pg_amproc p
                        WHERE p.amprocfamily = o.opcfamily AND p.amprocnum = 4
                          AND p.amproclefttype = o.opcintype AND p.amprocrighttype = o.opcintype)
                      AND (l.oid IS NULL OR l.collisdeterministic)
                      AND NOT (bt.oid = 'bpchar'::regtype AND coalesce(nullif(a.atttypmod, -1), nullif(t.typtypmod, -1), -1) = -1),
                    'nondeterministic', CASE WHEN NOT l.collisdeterministic THEN l.collname END) ORDER BY k.n)
             FROM unnest(i.indkey::int2[], i.indclass::oid[], i.indcollation::oid[]) WITH ORDINALITY
                    AS k(attnum, opclass, coll, n)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
             JOIN pg_type t ON t.oid = a.atttypid
             JOIN pg_type bt ON bt.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
             JOIN pg_opclass o ON o.oid = k.opclass
             LEFT JOIN pg_collation l ON l.oid = k.coll
            WHERE k.n <= i.indnkeyatts))
    FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid
   WHERE i.indrelid = c.oid AND i.indisprimary)`;

const uniques = `(
  SELECT coalesce(json_agg(json_build_object(
           'name', ic.relname, 'deferrable', NOT i.indimmediate, 'exclusion', i.indisexclusion,
           'columns', coalesce(${namesOf("i.indrelid", "i.indkey::int2[]")}, '[]')) ORDER BY ic.relname), '[]')
    FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid
   WHERE i.indrelid = c.oid AND NOT i.indisprimary AND (i.indisunique OR i.indisexclusion))`;

const foreignKeyJson = `json_build_object(
  'name', f.conname, 'schema', fn.nspname, 'table', fc.relname, 'columns', ${namesOf("f.conrelid", "f.conkey")},
  'refSchema', rn.nspname, 'refTable', rc.relname, 'refColumns', ${namesOf("f.confrelid", "f.confkey")},
  'match', f.confmatchtype)`;
const foreignKeyTables = `pg_constraint f
    JOIN pg_class fc ON fc.oid = f.conrelid JOIN pg_namespace fn ON fn.oid = fc.relnamespace
    JOIN pg_class rc ON rc.oid = f.confrelid JOIN pg_namespace rn ON rn.oid = rc.relnamespace`;

/** Of a pg_class entry, as fields of a JSON object. */
const ownership = (c: string): string =>
  `'owner', pg_get_userbyid(${c}.relowner), 'owned', pg_has_role(${c}.relowner, 'USAGE'),
         'ownerIsSuperuser', coalesce((SELECT rolsuper FROM pg_roles WHERE oid = ${c}.relowner), false)`;

const partitionsOf = `(
  SELECT coalesce(json_agg(json_build_object(
           'schema', xn.nspname, 'table', x.relname, 'persistence', ${persistence("x")}, 'kind', ${kind("x")},
           'replicaIdentity', x.relreplident, ${ownership("x")}, 'triggers', ${triggersOf("x.oid")}, 'rules', ${rulesOf("x.oid")})
           ORDER BY xn.nspname, x.relname), '[]')
    FROM pg_partition_tree(c.oid) tree JOIN pg_class x ON x.oid = tree.relid
    JOIN pg_namespace xn ON xn.oid = x.relnamespace
   WHERE tree.level > 0)`;

/**
 * The dependencies that ALTER TABLE follows (`find_composite_type_dependencies`) when it refuses to add a column with a
 * default: from type to type, and through views and composite types, to whatever stores values. The row type of a
 * partitioned table itself may be stored, as that has no rows of its own.
 */
const rowTypeUses = `(
  WITH RECURSIVE held(type) AS (
      SELECT x.reltype FROM pg_class x
       WHERE x.relkind = 'r' AND (x.oid = c.oid OR x.oid IN (SELECT relid FROM pg_partition_tree(c.oid)))
    UNION
      SELECT CASE WHEN d.classid = 'pg_type'::regclass THEN d.objid ELSE v.reltype END
        FROM held h
        JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = h.type
        LEFT JOIN pg_class v ON d.classid = 'pg_class'::regclass AND v.oid = d.objid AND v.relkind IN ('c', 'v', 'f')
       WHERE d.classid = 'pg_type'::regclass OR v.reltype <> 0)
  SELECT coalesce(json_agg(DISTINCT jsonb_build_object('schema', un.nspname, 'relation', u.relname, 'column', a.attname,
           'kind', CASE u.relkind WHEN 'm' THEN 'materialized view' WHEN 'i' THEN 'index' ELSE 'table' END)), '[]')
    FROM held h
    JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = h.type AND d.classid = 'pg_class'::regclass
    JOIN pg_class u ON u.oid = d.objid AND u.relkind IN ('r', 'p', 'm', 'i') AND NOT u.relispartition
    JOIN pg_namespace un ON un.oid = u.relnamespace
    JOIN pg_attribute a ON a.attrelid = u.oid AND a.atttypid = h.type AND a.attnum > 0 AND NOT a.attisdropped)`;

const candidatesSql = `
SELECT json_build_object(
         'oid', c.oid::bigint, 'name', n.nspname || '.' || c.relname, 'schema', n.nspname, 'table', c.relname,
         'kind', ${kind("c")}, 'persistence', ${persistence("c")}, 'replicaIdentity', c.relreplident,
         ${ownership("c")},
         'schemaUsable', has_schema_privilege(n.oid, 'USAGE'),
         'rowSecurity', c.relrowsecurity, 'forceRowSecurity', c.relforcerowsecurity,
         'inherits', EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = c.oid),
         'inheritedFrom', c.relkind <> 'p' AND EXISTS (SELECT FROM pg_inherits h WHERE h.inhparent = c.oid),
         'partitions', CASE WHEN c.relkind = 'p' THEN ${partitionsOf} ELSE '[]' END,
         'columns', ${candidateColumns},
         'primaryKey', ${primaryKey},
         'uniques', ${uniques},
         'foreignKeys', (SELECT coalesce(json_agg(${foreignKeyJson} ORDER BY f.conname), '[]')
                           FROM ${foreignKeyTables}
                          WHERE f.contype = 'f' AND f.conparentid = 0 AND f.conrelid = c.oid),
         'rules', ${rulesOf("c.oid")},
         'triggers', ${triggersOf("c.oid")},
         'ofType', CASE WHEN c.reloftype <> 0 THEN format_type(c.reloftype, NULL) END,
         'rowTypeUses', ${rowTypeUses}) AS candidate
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE (n.nspname = ANY ($1::text[]) OR n.nspname || '.' || c.relname = ANY ($2::text[]))
   AND c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND NOT c.relispartition
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY (n.nspname || '.' || c.relname) COLLATE "C"`;

/**
 * The tables of the named schemas, and those named singly (`schema.table`), with all that `check` and `init`
 * judge them by, ordered by name; partitions stand with their root, tables of extensions are left out.
 */
export const readCandidates = async (
  client: ClientBase,
  wanted: { readonly schemas: readonly string[]; readonly tables?: readonly string[] },
): Promise<Candidate[]> => {
  const result = await client.query<{ candidate: Candidate }>(candidatesSql, [
    wanted.schemas,
    wanted.tables ?? [],
  ]);
  return result.rows.map((row) => row.candidate);
};

/** Foreign keys between any two tables, where the referencing one is among `names` (`schema.table`). */
export const readForeignKeys = async (
  client: ClientBase,
  names: readonly string[],
): Promise<ForeignKey[]> => {
  const result = await client.query<{ fk: ForeignKey }>(
    `SELECT ${foreignKeyJson} AS fk FROM ${foreignKeyTables}
      WHERE f.contype = 'f' AND f.conparentid = 0 AND fn.nspname || '.' || fc.relname = ANY ($1::text[])
      ORDER BY fn.nspname || '.' || fc.relname, f.conname`,
    [names],
  );
  return result.rows.map((row) => row.fk);
};
