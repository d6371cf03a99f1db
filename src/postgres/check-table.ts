import type { TableSettings } from "../../regions/table-settings.ts";
import type { Candidate, CandidateColumn } from "./catalog.ts";
import { critical, warning, type LocalFinding } from "./check-finding.ts";
import { identifier, qualified } from "./identifiers.ts";
import { triggerPrefix } from "./install/triggers.ts";

/** The role that is to work with the table. */
export interface TableRole {
  readonly name: string;
  readonly superuser: boolean;
  readonly bypassRls: boolean;
}

export interface TableContext {
  readonly role: TableRole;
  /** From the configuration; undefined: the table is not named there. */
  readonly settings: TableSettings | undefined;
  /** Already replicated here: the columns and triggers of ours that it has are no clash. */
  readonly installed: boolean;
}

/** Columns that Coregent adds, now or by a later version, and those of its statements that stand beside the table's. */
const reserved = new Set(
  "cg_base cg_version cg_prev cg_seen cg_merge cg_index cg_key cg_since cg_wins cg_lost cg_floor".split(" "),
);

/** `init` takes up the tables with a primary key. */
export const isReplicable = (candidate: Candidate): boolean =>
  candidate.primaryKey !== null && candidate.kind !== "foreign";

/** What stands in the way of replicating one table. A function of the facts alone. */
export const tableFindings = (candidate: Candidate, context: TableContext): LocalFinding[] => {
  if (!isReplicable(candidate)) return [unreplicable(candidate, context)];
  return [
    ...keyFindings(candidate),
    ...columnFindings(candidate, context),
    ...ownerFindings(candidate, context),
    ...uniqueFindings(candidate),
    ...storageFindings(candidate),
    ...rowTypeFindings(candidate, context),
    ...behaviourFindings(candidate),
    ...rightFindings(candidate, context),
  ];
};

const sqlName = (candidate: { readonly schema: string; readonly table: string }): string =>
  qualified(candidate.schema, candidate.table);

const unreplicable = (candidate: Candidate, context: TableContext): LocalFinding => {
  const say = context.settings === undefined ? warning : critical;
  if (candidate.kind === "foreign") {
    return say(
      "foreign_table",
      candidate.name,
      "a foreign table is not replicated",
      "Replicate it where it is.",
    );
  }
  return say(
    "no_primary_key",
    candidate.name,
    "has no primary key and is not replicated",
    `ALTER TABLE ${sqlName(candidate)} ADD COLUMN id uuid DEFAULT gen_random_uuid() PRIMARY KEY; -- or name the columns that are its key. If it holds the same rows in several regions, empty it in all but one first: each would give them other keys.`,
  );
};

const keyFindings = (candidate: Candidate): LocalFinding[] => {
  const key = candidate.primaryKey;
  if (key === null) return [];
  const found: LocalFinding[] = [];
  const table = sqlName(candidate);
  if (key.deferrable) {
    const columns = key.columns.map((column) => identifier(column.name)).join(", ");
    found.push(
      critical(
        "deferrable_key",
        `${candidate.name} (${key.name})`,
        "the primary key is deferrable; such a constraint is not enforced when rows are merged",
        `ALTER TABLE ${table} DROP CONSTRAINT ${identifier(key.name)}, ADD PRIMARY KEY (${columns});`,
      ),
    );
  }
  for (const column of key.columns) {
    if (column.equalImage) continue;
    const reason =
      column.nondeterministic === null
        ? `equal values of its type may differ in their bytes (operator class ${column.operatorClass})`
        : `its collation ${column.nondeterministic} takes different texts for equal`;
    const remedy =
      column.nondeterministic === null
        ? "Use a key of another type: uuid, text, varchar, an integer, date or timestamp (numeric can often be bigint)."
        : `ALTER TABLE ${table} ALTER COLUMN ${identifier(column.name)} TYPE text COLLATE "C";`;
    found.push(critical("key_not_bytewise", `${candidate.name}.${column.name}`, reason, remedy));
  }
  for (const name of key.columns.map((column) => column.name)) {
    const column = candidate.columns.find((other) => other.name === name);
    if (column?.generated === true) {
      found.push(
        critical(
          "generated_key",
          `${candidate.name}.${name}`,
          "a generated column does not travel, so it cannot be a key",
          `ALTER TABLE ${table} ALTER COLUMN ${identifier(name)} DROP EXPRESSION; -- and write the value`,
        ),
      );
    }
  }
  return found;
};

const columnFindings = (candidate: Candidate, context: TableContext): LocalFinding[] => {
  const key = new Set(candidate.primaryKey?.columns.map((column) => column.name));
  const table = sqlName(candidate);
  return candidate.columns.flatMap((column) => {
    const object = `${candidate.name}.${column.name}`;
    const found: LocalFinding[] = [];
    if (column.identity === "a" && !key.has(column.name)) {
      found.push(
        critical(
          "identity_always",
          object,
          "GENERATED ALWAYS AS IDENTITY does not take the value that another region gave",
          `ALTER TABLE ${table} ALTER COLUMN ${identifier(column.name)} SET GENERATED BY DEFAULT;`,
        ),
      );
    }
    // A table with triggers of ours has been renamed since it was installed.
    if (
      reserved.has(column.name) &&
      !context.installed &&
      !candidate.triggers.some((trigger) => trigger.ours)
    ) {
      found.push(
        critical(
          "column_clash",
          object,
          "Coregent has a column of this name",
          `ALTER TABLE ${table} RENAME COLUMN ${identifier(column.name)} TO ${identifier(`${column.name}_old`)};`,
        ),
      );
    }
    if (isOidType(column)) {
      found.push(
        warning(
          "oid_column",
          object,
          `${column.type} holds a number that means something else in another database`,
          "Store the name as text (for large objects: bytea).",
        ),
      );
    }
    return found;
  });
};

const isOidType = (column: CandidateColumn): boolean =>
  column.typeSchema === "pg_catalog" && (column.typeName === "oid" || column.typeName.startsWith("reg"));

const ownerTypes = new Set(["text", "varchar", "bpchar", "name", "citext"]);

const ownerFindings = (candidate: Candidate, { settings }: TableContext): LocalFinding[] => {
  if (settings === undefined || settings.owner === null) return [];
  const column = candidate.columns.find((other) => other.name === settings.owner);
  const object = `${candidate.name}.${settings.owner}`;
  const table = sqlName(candidate);
  if (column === undefined) {
    return [
      critical(
        "owner_column_missing",
        object,
        "the configuration names this owner column, and the table does not have it",
        `ALTER TABLE ${table} ADD COLUMN ${identifier(settings.owner)} text; -- or correct the configuration`,
      ),
    ];
  }
  if (!ownerTypes.has(column.baseType) && !column.isEnum) {
    return [
      critical(
        "owner_column_type",
        object,
        `an owner column holds the name of a region; this one is ${column.type}`,
        `ALTER TABLE ${table} ALTER COLUMN ${identifier(settings.owner)} TYPE text; -- or name another column`,
      ),
    ];
  }
  if (!column.generated) return [];
  return [
    critical(
      "owner_column_generated",
      object,
      "a generated column is not known yet when the row is stamped",
      `ALTER TABLE ${table} ALTER COLUMN ${identifier(settings.owner)} DROP EXPRESSION;`,
    ),
  ];
};

const uniqueFindings = (candidate: Candidate): LocalFinding[] =>
  candidate.uniques.map((unique) => {
    const object = `${candidate.name} (${unique.name})`;
    const columns = unique.columns.map((name) => identifier(name)).join(", ");
    if (unique.deferrable) {
      return critical(
        "deferrable_unique",
        object,
        "a deferrable constraint is not enforced when rows are merged",
        unique.exclusion
          ? `ALTER TABLE ${sqlName(candidate)} DROP CONSTRAINT ${identifier(unique.name)}; -- and add it NOT DEFERRABLE`
          : `ALTER TABLE ${sqlName(candidate)} DROP CONSTRAINT ${identifier(unique.name)}, ADD CONSTRAINT ${identifier(unique.name)} UNIQUE (${columns});`,
      );
    }
    return warning(
      "unique_after_the_fact",
      object,
      `two regions can take one value of (${unique.columns.join(", ")}) at the same time; that is decided when they meet`,
      "Nothing, if that is rare; else make the region part of the constraint, or let one region own what claims the value.",
    );
  });

const storageFindings = (candidate: Candidate): LocalFinding[] => {
  const found: LocalFinding[] = [];
  const table = sqlName(candidate);
  if (candidate.inherits || candidate.inheritedFrom) {
    found.push(
      critical(
        "inheritance",
        candidate.name,
        candidate.inherits ? "inherits from another table" : "other tables inherit from it",
        `Use partitions or separate tables (ALTER TABLE ... NO INHERIT ...), or put it into a schema that is not replicated.`,
      ),
    );
  }
  const relations = [candidate, ...candidate.partitions];
  for (const relation of relations) {
    const name = `${relation.schema}.${relation.table}`;
    if (relation.persistence === "unlogged") {
      found.push(
        critical(
          "unlogged",
          name,
          "an unlogged table leaves no WAL",
          `ALTER TABLE ${sqlName(relation)} SET LOGGED;`,
        ),
      );
    }
    if (relation.kind === "foreign") {
      found.push(
        critical(
          "foreign_partition",
          name,
          "a partition that is a foreign table leaves no WAL",
          `ALTER TABLE ${table} DETACH PARTITION ${sqlName(relation)};`,
        ),
      );
    }
    if (relation.replicaIdentity === "n") {
      found.push(
        critical(
          "replica_identity_nothing",
          name,
          "REPLICA IDENTITY NOTHING refuses updates of a published table",
          `ALTER TABLE ${sqlName(relation)} REPLICA IDENTITY DEFAULT;`,
        ),
      );
    }
  }
  return found;
};

/** Where ALTER TABLE would refuse to add the columns of ours that the table does not have yet. */
const rowTypeFindings = (candidate: Candidate, { settings }: TableContext): LocalFinding[] => {
  const added = [
    "cg_version",
    "cg_prev",
    "cg_seen",
    ...((settings?.owner ?? null) === null ? [] : ["cg_base"]),
  ];
  const present = new Set(candidate.columns.map((column) => column.name));
  if (added.every((name) => present.has(name))) return [];
  const found = candidate.rowTypeUses.map(({ schema, relation, column, kind }) => {
    const user = qualified(schema, relation);
    return critical(
      "row_type_used",
      `${candidate.name} (${schema}.${relation}.${column})`,
      `the column ${schema}.${relation}.${column} holds rows of the table, so PostgreSQL lets no column be added to it`,
      kind === "table"
        ? `ALTER TABLE ${user} ALTER COLUMN ${identifier(column)} TYPE jsonb USING to_jsonb(${identifier(column)}); -- or a composite type of its own`
        : `DROP ${kind.toUpperCase()} ${user}; -- and make it anew after coregent init`,
    );
  });
  if (candidate.ofType !== null) {
    found.push(
      critical(
        "typed_table",
        candidate.name,
        `is a table OF ${candidate.ofType}: PostgreSQL lets no column be added to it`,
        `ALTER TABLE ${sqlName(candidate)} NOT OF;`,
      ),
    );
  }
  return found;
};

const behaviourFindings = (candidate: Candidate): LocalFinding[] =>
  [candidate, ...candidate.partitions].flatMap((relation) => {
    const name = `${relation.schema}.${relation.table}`;
    const table = sqlName(relation);
    const found = relation.rules.map((rule) =>
      critical(
        "rule",
        `${name} (${rule})`,
        "a rule rewrites what is merged",
        `DROP RULE ${identifier(rule)} ON ${table}; -- a trigger does the same`,
      ),
    );
    for (const trigger of relation.triggers.filter((one) => !one.ours)) {
      const object = `${name} (${trigger.name})`;
      if (trigger.enabled === "A" || trigger.enabled === "R") {
        found.push(
          critical(
            "trigger_on_merge",
            object,
            `the trigger is ENABLE ${trigger.enabled === "A" ? "ALWAYS" : "REPLICA"}: it would fire once more in each region`,
            `ALTER TABLE ${table} ENABLE TRIGGER ${identifier(trigger.name)};`,
          ),
        );
      }
      if (trigger.name.startsWith(triggerPrefix)) {
        found.push(
          critical(
            "trigger_clash",
            object,
            `names of triggers beginning with ${triggerPrefix} are Coregent's`,
            `ALTER TRIGGER ${identifier(trigger.name)} ON ${table} RENAME TO another_name;`,
          ),
        );
      } else if (Buffer.compare(Buffer.from(trigger.name), Buffer.from(triggerPrefix)) > 0) {
        found.push(
          warning(
            "trigger_order",
            object,
            "by its name this trigger fires after the row was stamped",
            `If it changes rows: ALTER TRIGGER ${identifier(trigger.name)} ON ${table} RENAME TO another_name;`,
          ),
        );
      }
    }
    return found;
  });

const rightFindings = (candidate: Candidate, { role }: TableContext): LocalFinding[] => {
  const found: LocalFinding[] = [];
  const table = sqlName(candidate);
  const name = identifier(role.name);
  if (!candidate.schemaUsable) {
    found.push(
      critical(
        "role_schema_usage",
        candidate.schema,
        `the role ${role.name} may not use the schema`,
        `GRANT USAGE ON SCHEMA ${identifier(candidate.schema)} TO ${name};`,
      ),
    );
  }
  for (const relation of [candidate, ...candidate.partitions]) {
    if (relation.owned) continue;
    found.push(
      critical(
        "role_table_owner",
        `${relation.schema}.${relation.table}`,
        `the role ${role.name} does not have the rights of its owner ${relation.owner}`,
        // To be granted a superuser's role is to become one.
        relation.ownerIsSuperuser
          ? `ALTER TABLE ${sqlName(relation)} OWNER TO ${name};`
          : `GRANT ${identifier(relation.owner)} TO ${name};`,
      ),
    );
  }
  const subject = candidate.forceRowSecurity || (candidate.rowSecurity && !candidate.owned);
  if (subject && !role.bypassRls) {
    found.push(
      critical(
        "row_security",
        candidate.name,
        `its policies would hide rows from the role ${role.name}`,
        candidate.forceRowSecurity
          ? `ALTER ROLE ${name} BYPASSRLS; -- or ALTER TABLE ${table} NO FORCE ROW LEVEL SECURITY;`
          : `ALTER ROLE ${name} BYPASSRLS; -- or give it the rights of the table's owner`,
      ),
    );
  }
  return found;
};
