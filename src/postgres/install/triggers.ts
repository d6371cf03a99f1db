import { identifier, list, literal, qualified } from "../identifiers.ts";
import { ours, tableSlug, tombstoneName } from "./names.ts";

/** What the triggers of one table are made from. */
export interface StampedTable {
  readonly schema: string;
  readonly table: string;
  readonly partitioned: boolean;
  readonly key: readonly string[];
  readonly ownerColumn: string | null;
  /** Of a table with owners: whether a takeover has the owner's authority. */
  readonly failover: "takeover" | "provisional";
}

/** The region whose writes are stamped here. */
export interface StampingRegion {
  readonly id: number;
  readonly name: string;
}

export interface TriggerFunction {
  /** Unqualified, in schema `coregent`. */
  readonly name: string;
  readonly body: string;
  /** Runs as its owner: it reads and writes relations which the writing role may not. */
  readonly definer: boolean;
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

const settings = [
  "search_path = pg_catalog, pg_temp",
  // A plan is made once a session. Made for one bulk load, it would read whole relations for each row ever after.
  "enable_seqscan = off",
  "enable_hashjoin = off",
  "enable_mergejoin = off",
];

export const createFunction = (fn: TriggerFunction): string => `
CREATE OR REPLACE FUNCTION ${ours(fn.name)}() RETURNS trigger LANGUAGE plpgsql
${fn.definer ? `SECURITY DEFINER SET ${settings.join(" SET ")}` : `SECURITY INVOKER SET ${settings[0] ?? ""}`}
AS ${literal(fn.body)};
REVOKE ALL ON FUNCTION ${ours(fn.name)}() FROM PUBLIC;`;

/**
 * What a transaction has set for its writes. A query looks it up once, not for each row; an assignment without a
 * query is the faster one.
 */
const setting = (name: "stamp_above" | "takeover", where: "assignment" | "query"): string =>
  where === "query" ? `(SELECT coregent.${name}())` : `coregent.${name}()`;

/** The statements that stamping is made of, for one table in one region. */
class Statements {
  readonly #table: StampedTable;
  readonly #region: StampingRegion;
  readonly #target: string;
  readonly #tombstone: string;

  constructor(table: StampedTable, region: StampingRegion) {
    this.#table = table;
    this.#region = region;
    this.#target = `${table.partitioned ? "" : "ONLY "}${qualified(table.schema, table.table)}`;
    this.#tombstone = ours(tombstoneName(table.schema, table.table));
  }

  /** Conjunction of the key's columns being equal in two aliases. */
  sameKey(a: string, b: string): string {
    return this.#table.key.map((name) => `${a}.${identifier(name)} = ${b}.${identifier(name)}`).join(" AND ");
  }

  keyChanged(): string {
    return this.#table.key
      .map((name) => `OLD.${identifier(name)} IS DISTINCT FROM NEW.${identifier(name)}`)
      .join(" OR ");
  }

  /** Whether this region owns a row; null where it has no owner. */
  ownedHere(alias: string): string {
    return `${alias}.${identifier(this.#table.ownerColumn ?? "")}::text = ${literal(this.#region.name)}`;
  }

  /** Conditions, any of which gives authority; and whether the transaction takes over, where that gives it too. */
  authority(where: "assignment" | "query", ...conditions: readonly string[]): string {
    const takeover = this.#table.failover === "takeover" ? [setting("takeover", where)] : [];
    return [...conditions, ...takeover].join(" OR ");
  }

  get #owned(): boolean {
    return this.#table.ownerColumn !== null;
  }

  highest(alias: string): string {
    return this.#owned ? `greatest(${alias}.cg_version, ${alias}.cg_base)` : `${alias}.cg_version`;
  }

  /**
   * A new version above these, above what the transaction has set, and, where bases count, above all that a merge has
   * replaced by a lower version.
   */
  next(where: "assignment" | "query", ...above: readonly string[]): string {
    const all = [
      ...above,
      setting("stamp_above", where),
      ...(this.#owned ? ["coregent.floor_version()"] : []),
    ];
    return `coregent.next_version(${all.length > 1 ? `greatest(${all.join(", ")})` : (all[0] ?? "0")})`;
  }

  seenAfter(alias: string): string {
    return `coregent.seen_after(${alias}.cg_seen, ${alias}.cg_version, ${this.#region.id})`;
  }

  /** The state of a key that nothing was held of. */
  stampFresh(): string {
    return `
  NEW.cg_prev := 0;
  NEW.cg_seen := NULL;${
    this.#owned
      ? `
  NEW.cg_base := CASE WHEN ${this.authority("assignment", this.ownedHere("NEW"))} THEN NEW.cg_version ELSE 0 END;`
      : ""
  }`;
  }

  stampUponOld(): string {
    const owner = identifier(this.#table.ownerColumn ?? "");
    return `
  NEW.cg_prev := OLD.cg_version;
  NEW.cg_seen := ${this.seenAfter("OLD")};${
    this.#owned
      ? `
  NEW.cg_base := CASE WHEN ${this.authority(
    "assignment",
    this.ownedHere("OLD"),
    `OLD.${owner}::text IS DISTINCT FROM NEW.${owner}::text`,
  )}
    THEN NEW.cg_version ELSE OLD.cg_base END;`
      : ""
  }`;
  }

  /** One record of a row trigger as a FROM item with the columns that the statements below need. */
  record(record: "OLD" | "NEW"): string {
    const names = [
      ...this.#table.key,
      ...(this.#owned ? [this.#table.ownerColumn ?? "", "cg_base"] : []),
      "cg_version",
      "cg_seen",
    ];
    const columns = [...new Set(names)].map((name) => `${record}.${identifier(name)} AS ${identifier(name)}`);
    return `(SELECT ${columns.join(", ")})`;
  }

  /**
   * Writes a tombstone for each row of `source`, upon the row or upon the tombstone there, whichever is higher, and
   * above both. (Normally the row is: it was inserted upon the tombstone.)
   */
  entomb(source: string, where = ""): string {
    const { key } = this.#table;
    const region = this.#region.id;
    const keys = list(key);
    const above = `((greatest(EXCLUDED.cg_version, ${this.highest("d")}) >> 10) + 1) * 1024 + ${region}`;
    if (!this.#owned) {
      return `
  INSERT INTO ${this.#tombstone} AS d (${keys}, cg_version, cg_prev, cg_seen)
  SELECT ${list(key, "g.")}, ${this.next("query", "g.cg_version")}, g.cg_version, ${this.seenAfter("g")}
    FROM ${source} AS g ${where}
  ON CONFLICT (${keys}) DO UPDATE SET
    cg_version = CASE WHEN EXCLUDED.cg_prev > d.cg_version THEN EXCLUDED.cg_version ELSE ${above} END,
    cg_prev = greatest(EXCLUDED.cg_prev, d.cg_version),
    cg_seen = CASE WHEN EXCLUDED.cg_prev > d.cg_version THEN EXCLUDED.cg_seen ELSE ${this.seenAfter("d")} END;`;
    }
    const upon = (row: string, tombstone: string): string =>
      `CASE WHEN p.upon_row THEN ${row} ELSE ${tombstone} END`;
    const wins = "(EXCLUDED.cg_base, EXCLUDED.cg_version) > (d.cg_base, d.cg_version)";
    return `
  INSERT INTO ${this.#tombstone} AS d (${keys}, cg_base, cg_version, cg_prev, cg_seen)
  SELECT ${list(key, "p.")}, CASE WHEN p.authority THEN p.v ELSE p.base END, p.v, p.prev, p.seen
    FROM (SELECT ${list(key, "p.")}, p.authority,
                 ${this.next("query", "p.highest")} AS v,
                 ${upon("p.cg_base", "p.d_base")} AS base,
                 ${upon("p.cg_version", "p.d_version")} AS prev,
                 ${upon(this.seenAfter("p"), `coregent.seen_after(p.d_seen, p.d_version, ${region})`)} AS seen
            FROM (SELECT ${list(key, "g.")}, g.cg_base, g.cg_version, g.cg_seen,
                         d.cg_base AS d_base, d.cg_version AS d_version, d.cg_seen AS d_seen,
                         coalesce(${this.authority("query", this.ownedHere("g"))}, false) AS authority,
                         greatest(g.cg_version, g.cg_base, d.cg_version, d.cg_base) AS highest,
                         d.cg_version IS NULL
                           OR (g.cg_base, g.cg_version) > (d.cg_base, d.cg_version) AS upon_row
                    FROM ${source} AS g LEFT JOIN ${this.#tombstone} AS d ON ${this.sameKey("d", "g")} ${where}) AS p) AS p
  ON CONFLICT (${keys}) DO UPDATE SET
    cg_base = CASE WHEN ${wins} THEN EXCLUDED.cg_base
                   WHEN EXCLUDED.cg_base = EXCLUDED.cg_version THEN ${above}
                   ELSE d.cg_base END,
    cg_version = CASE WHEN ${wins} THEN EXCLUDED.cg_version ELSE ${above} END,
    cg_prev = CASE WHEN ${wins} THEN EXCLUDED.cg_prev ELSE d.cg_version END,
    cg_seen = CASE WHEN ${wins} THEN EXCLUDED.cg_seen ELSE ${this.seenAfter("d")} END;`;
  }

  /** For `entomb`: leaves out rows which a tombstone outranks already. */
  notEntombed(): string {
    const row = this.#owned ? "(g.cg_base, g.cg_version)" : "g.cg_version";
    const dead = this.#owned ? "(x.cg_base, x.cg_version)" : "x.cg_version";
    return `WHERE NOT EXISTS (SELECT FROM ${this.#tombstone} AS x WHERE ${this.sameKey("x", "g")} AND ${dead} > ${row})`;
  }

  /**
   * Stamps rows that live at the keys of `source` anew, upon the tombstones there: where one came after the row's
   * stamp was made (the insert waited for a delete, or one statement deletes and inserts), and where the stamp was that of
   * a fresh key. Under the replica role, so that no trigger fires; the rows' own columns stay as they are.
   * The tombstones stay locked until the writer's commit: a merge that replaces one must see what was written upon it, or
   * it would report it as lost.
   * @param unless what is mostly not there, and is looked for first: without it, no row is to be stamped anew
   */
  revive(source: string, unless: "tombstone" | "row"): string {
    const { key } = this.#table;
    const first =
      unless === "tombstone"
        ? `${source} AS k JOIN ${this.#tombstone} AS d ON ${this.sameKey("d", "k")}`
        : `${source} AS k JOIN ${this.#target} AS r ON ${this.sameKey("r", "k")}`;
    const order = (alias: string): string =>
      this.#owned ? `(${alias}.cg_base, ${alias}.cg_version)` : `${alias}.cg_version`;
    const stale = `(${order("r")} <= ${order("d")} OR r.cg_prev = 0
             OR NOT coregent.succeeded(d.cg_version, r.cg_version, r.cg_seen))`;
    const from = `${source} AS k
      JOIN ${this.#tombstone} AS d ON ${this.sameKey("d", "k")}
      JOIN ${this.#target} AS r ON ${this.sameKey("r", "d")}`;
    const base = this.#owned
      ? `,
        cg_base = CASE WHEN ${this.authority("query", this.ownedHere("t"))} THEN s.v ELSE s.base END`
      : "";
    return `
  IF EXISTS (SELECT FROM ${first}) THEN
    role := current_setting('session_replication_role');
    PERFORM set_config('session_replication_role', 'replica', true);
    UPDATE ${this.#target} AS t
       SET cg_version = s.v, cg_prev = s.prev, cg_seen = s.seen${base}
      FROM (SELECT ${list(key, "d.")}, ${this.#owned ? "d.cg_base AS base, " : ""}d.cg_version AS prev,
                   ${this.seenAfter("d")} AS seen,
                   ${this.next("query", this.highest("r"), this.highest("d"))} AS v
              FROM ${from} WHERE ${stale} FOR SHARE OF d) AS s
     WHERE ${this.sameKey("t", "s")};
    PERFORM set_config('session_replication_role', role, true);
  END IF;`;
  }

  /**
   * A transaction with a snapshot of its own does not see a tombstone that came after it, and would stamp below it.
   * The unique index does see it: the probe raises 40001 (could not serialize access), and is undone where it does not.
   */
  probe(source: string): string {
    const { key } = this.#table;
    return `
  IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
    BEGIN
      INSERT INTO ${this.#tombstone} (${list(key)}, cg_version) SELECT ${list(key, "k.")}, 0 FROM ${source} AS k
      ON CONFLICT (${list(key)}) DO NOTHING;
      RAISE EXCEPTION USING ERRCODE = 'CG000';
    EXCEPTION WHEN SQLSTATE 'CG000' THEN
      NULL;
    END;
  END IF;`;
  }
}

/** Stands for the relation in the text of the dynamic statement. */
const truncated = "{truncated relation}";

const revives = (statements: string): string => `DECLARE
  role text;
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
    PERFORM set_config('coregent.stamp_above', greatest(${sql.highest("OLD")}, coregent.stamp_above())::text, true);`
    : "";
  const inserted = partitioned ? sql.record("NEW") : "inserted";
  const gone = partitioned ? sql.record("OLD") : "gone";
  return [
    {
      name: `insert_${slug}`,
      definer: false,
      body: `BEGIN
  NEW.cg_version := ${sql.next("assignment")};${sql.stampFresh()}
  RETURN NEW;
END`,
    },
    {
      name: `update_${slug}`,
      definer: false,
      body: `BEGIN
  NEW.cg_version := ${sql.next("assignment", sql.highest("OLD"))};
  IF ${sql.keyChanged()} THEN${carry}${sql.stampFresh()}
  ELSE${sql.stampUponOld()}
  END IF;
  RETURN NEW;
END`,
    },
    {
      name: `inserted_${slug}`,
      definer: true,
      body: revives(sql.probe(inserted) + sql.revive(inserted, "tombstone")),
    },
    { name: `deleted_${slug}`, definer: true, body: revives(sql.entomb(gone) + sql.revive(gone, "row")) },
    {
      name: `moved_${slug}`,
      definer: true,
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
      // The relation may be any partition, also one that came later; TRUNCATE is rare enough for dynamic SQL.
      body: `BEGIN
  IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
    RAISE EXCEPTION 'TRUNCATE of the replicated table %.% needs isolation level READ COMMITTED',
      quote_ident(TG_TABLE_SCHEMA), quote_ident(TG_TABLE_NAME)
      USING ERRCODE = 'object_not_in_prerequisite_state',
        DETAIL = 'The snapshot of this transaction may lack rows whose deletion the other regions must learn of.',
        HINT = 'Truncate in a READ COMMITTED transaction, or use DELETE.';
  END IF;
  EXECUTE replace(${literal(sql.entomb(truncated, sql.notEntombed()))}, ${literal(truncated)}, TG_RELID::regclass::text);
  RETURN NULL;
END`,
    },
  ];
};

/** The triggers of a table, in no order: each finds its own work by itself. */
export const tableTriggers = (table: StampedTable, region: StampingRegion): TableTrigger[] => {
  const sql = new Statements(table, region);
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
  return [
    trigger("insert", (on) => `BEFORE INSERT ON ${on} FOR EACH ROW`),
    trigger("update", (on) => `BEFORE UPDATE ON ${on} FOR EACH ROW`),
    trigger("inserted", each("INSERT", "NEW TABLE AS inserted")),
    trigger("deleted", each("DELETE", "OLD TABLE AS gone")),
    trigger("moved", (on) => `AFTER UPDATE ON ${on} FOR EACH ROW WHEN (${sql.keyChanged()})`),
    trigger("truncate", (on) => `BEFORE TRUNCATE ON ${on} FOR EACH STATEMENT`, true),
  ];
};
