import { identifier, list, literal, qualified } from "../identifiers.ts";
import { gateName, ours, tombstoneName } from "./names.ts";

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

/**
 * A session in which this setting is on is told by a notice of this SQLSTATE, before its statement ends, that rows have
 * other versions than the statement has returned.
 */
export const tellsRestamped = "coregent.tells_restamped";
export const restampedCode = "CG001";

/** The region whose writes are stamped here. */
export interface StampingRegion {
  readonly id: number;
  readonly name: string;
}

/** Up to so many rows of a statement are entombed without a subtransaction. */
const fewRows = 500;

/** The gate of a table's inserts, as an expression. */
export const gateOf = ({ schema, table }: Pick<StampedTable, "schema" | "table">): string =>
  `${literal(ours(gateName(schema, table)))}::pg_catalog.regclass`;

/** The statements that stamping is made of, for one table in one region. */
export class Statements {
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

  /** Names for columns of our own beside the key's, whatever those are called. */
  #beside<Name extends string>(...names: readonly Name[]): Record<Name, string> {
    const free = (name: string): string => (this.#table.key.includes(name) ? free(`${name}_`) : name);
    return Object.fromEntries(names.map((name) => [name, free(name)])) as Record<Name, string>;
  }

  keyChanged(): string {
    return this.#table.key
      .map((name) => `OLD.${identifier(name)} OPERATOR(pg_catalog.<>) NEW.${identifier(name)}`)
      .join(" OR ");
  }

  owner(alias: string): string {
    return `${alias}.${identifier(this.#table.ownerColumn ?? "")}::pg_catalog.text`;
  }

  /** Whether this region owns a row; null where it has no owner. */
  ownedHere(alias: string): string {
    return `${this.owner(alias)} OPERATOR(pg_catalog.=) ${literal(this.#region.name)}`;
  }

  /** Whether a write has authority: by any of these conditions, or by a takeover, where that gives it. */
  authority(...conditions: readonly string[]): string {
    const takeover = this.#table.failover === "takeover" ? ["coregent.takeover()"] : [];
    return [...conditions, ...takeover].join(" OR ");
  }

  get #owned(): boolean {
    return this.#table.ownerColumn !== null;
  }

  highest(alias: string): string {
    return this.#owned ? `greatest(${alias}.cg_version, ${alias}.cg_base)` : `${alias}.cg_version`;
  }

  /**
   * A new version, above these if there are any, and, where bases count, above all that a merge has replaced by a lower
   * version.
   */
  next(...above: readonly string[]): string {
    const all = this.#owned ? [...above, "coregent.floor_version()"] : above;
    return `coregent.stamp(${all.length > 1 ? `greatest(${all.join(", ")})` : (all[0] ?? "")})`;
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
  NEW.cg_base := CASE WHEN ${this.authority(this.ownedHere("NEW"))} THEN NEW.cg_version ELSE 0 END;`
      : ""
  }`;
  }

  stampUponOld(): string {
    const changed = `coregent.differ(${this.owner("OLD")}, ${this.owner("NEW")})`;
    return `
  NEW.cg_prev := OLD.cg_version;
  NEW.cg_seen := ${this.seenAfter("OLD")};${
    this.#owned
      ? `
  NEW.cg_base := CASE WHEN ${this.authority(this.ownedHere("OLD"), changed)}
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
    const keys = list(this.#table.key);
    return `
  INSERT INTO ${this.#tombstone} AS d (${this.#tombstoneColumns()})
  ${this.#tombstonesOf(source, where)}
  ON CONFLICT (${keys}) DO UPDATE SET${this.#replacing()};`;
  }

  /**
   * The same by a plain insert where no tombstone is. What ON CONFLICT inserts are two records in the WAL, and a
   * transaction in which such an insert is half decoded cannot be streamed: the source writes it to disk instead.
   * Where another transaction has entombed a key meanwhile, a unique violation: see `entombMany`.
   */
  entombNew(source: string, where = ""): string {
    const columns = this.#tombstoneColumns();
    return `
  MERGE INTO ${this.#tombstone} AS d USING (
  ${this.#tombstonesOf(source, where)}) AS excluded
  ON ${this.sameKey("d", "excluded")}
  WHEN MATCHED THEN UPDATE SET${this.#replacing()}
  WHEN NOT MATCHED THEN INSERT (${columns}) VALUES (${this.#tombstoneColumns("excluded.")});`;
  }

  /**
   * `entomb` for the rows of a statement, cheaper where they are many. Needs a variable `entombed`. A block that
   * catches errors is a subtransaction, with an id of its own; so few rows go without.
   */
  entombMany(source: string): string {
    const rest = `(SELECT * FROM ${source} OFFSET ${fewRows})`;
    // In the order of the keys, so that the index of the tombstones is filled page by page, here and where they are merged.
    const inOrder = `ORDER BY ${list(this.#table.key, "g.")}`;
    return `${this.entomb(`(SELECT * FROM ${source} LIMIT ${fewRows})`)}
  GET DIAGNOSTICS entombed = ROW_COUNT;
  IF entombed = ${fewRows} THEN
    BEGIN${this.entombNew(rest, inOrder)}
    EXCEPTION WHEN unique_violation THEN${this.entomb(rest)}
    END;
  END IF;`;
  }

  /** Ends the function where a statement had no rows, which fires statement triggers too. */
  endWithout(source: string): string {
    return `
  PERFORM FROM ${source} LIMIT 1;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;`;
  }

  #tombstoneColumns(prefix = ""): string {
    const stamp = [...(this.#owned ? ["cg_base"] : []), "cg_version", "cg_prev", "cg_seen"];
    return `${list(this.#table.key, prefix)}, ${stamp.map((name) => prefix + name).join(", ")}`;
  }

  /** The tombstones of rows, in the order of their columns. */
  #tombstonesOf(source: string, where: string): string {
    const { key } = this.#table;
    if (!this.#owned) {
      return `SELECT ${list(key, "g.")}, ${this.next("g.cg_version")} AS cg_version, g.cg_version AS cg_prev,
         ${this.seenAfter("g")} AS cg_seen
    FROM ${source} AS g ${where}`;
    }
    const own = this.#beside(
      "authority",
      "v",
      "base",
      "prev",
      "seen",
      "highest",
      "upon_row",
      "d_base",
      "d_version",
      "d_seen",
    );
    const upon = (row: string, tombstone: string): string =>
      `CASE WHEN p.${own.upon_row} THEN ${row} ELSE ${tombstone} END`;
    const seenAfterTombstone = `coregent.seen_after(p.${own.d_seen}, p.${own.d_version}, ${this.#region.id})`;
    return `SELECT ${list(key, "p.")}, CASE WHEN p.${own.authority} THEN p.${own.v} ELSE p.${own.base} END AS cg_base,
         p.${own.v} AS cg_version, p.${own.prev} AS cg_prev, p.${own.seen} AS cg_seen
    FROM (SELECT ${list(key, "p.")}, p.${own.authority},
                 ${this.next(`p.${own.highest}`)} AS ${own.v},
                 ${upon("p.cg_base", `p.${own.d_base}`)} AS ${own.base},
                 ${upon("p.cg_version", `p.${own.d_version}`)} AS ${own.prev},
                 ${upon(this.seenAfter("p"), seenAfterTombstone)} AS ${own.seen}
            FROM (SELECT ${list(key, "g.")}, g.cg_base, g.cg_version, g.cg_seen,
                         d.cg_base AS ${own.d_base}, d.cg_version AS ${own.d_version}, d.cg_seen AS ${own.d_seen},
                         coalesce(${this.authority(this.ownedHere("g"))}, false) AS ${own.authority},
                         greatest(g.cg_version, g.cg_base, d.cg_version, d.cg_base) AS ${own.highest},
                         d.cg_version IS NULL
                           OR (g.cg_base, g.cg_version) > (d.cg_base, d.cg_version) AS ${own.upon_row}
                    FROM ${source} AS g LEFT JOIN ${this.#tombstone} AS d ON ${this.sameKey("d", "g")} ${where}) AS p) AS p`;
  }

  /** What becomes of a tombstone `d` that is there, by what `excluded` would have been where none is. */
  #replacing(): string {
    const above = `((greatest(excluded.cg_version, ${this.highest("d")}) >> 10) + 1) * 1024 + ${this.#region.id}`;
    if (!this.#owned) {
      return `
    cg_version = CASE WHEN excluded.cg_prev > d.cg_version THEN excluded.cg_version ELSE ${above} END,
    cg_prev = greatest(excluded.cg_prev, d.cg_version),
    cg_seen = CASE WHEN excluded.cg_prev > d.cg_version THEN excluded.cg_seen ELSE ${this.seenAfter("d")} END`;
    }
    const wins = "(excluded.cg_base, excluded.cg_version) > (d.cg_base, d.cg_version)";
    return `
    cg_base = CASE WHEN ${wins} THEN excluded.cg_base
                   WHEN excluded.cg_base = excluded.cg_version THEN ${above}
                   ELSE d.cg_base END,
    cg_version = CASE WHEN ${wins} THEN excluded.cg_version ELSE ${above} END,
    cg_prev = CASE WHEN ${wins} THEN excluded.cg_prev ELSE d.cg_version END,
    cg_seen = CASE WHEN ${wins} THEN excluded.cg_seen ELSE ${this.seenAfter("d")} END`;
  }

  /** For `entomb`: leaves out rows which a tombstone outranks already. */
  notEntombed(): string {
    const row = this.#owned ? "(g.cg_base, g.cg_version)" : "g.cg_version";
    const dead = this.#owned ? "(x.cg_base, x.cg_version)" : "x.cg_version";
    return `WHERE NOT EXISTS (SELECT FROM ${this.#tombstone} AS x WHERE ${this.sameKey("x", "g")} AND ${dead} > ${row})`;
  }

  /**
   * Looks for the first key of `source` that has a tombstone, or a live row; FOUND says whether there is one. A sub-select
   * that is not pulled up is asked for key after key, whatever sizes the plan was made for: of a plain join, a plan from
   * when there were few tombstones would read all of them for each row ever after.
   */
  #look(source: string, at: "tombstone" | "row"): string {
    const relation = at === "tombstone" ? this.#tombstone : this.#target;
    return `
  PERFORM FROM ${source} AS k,
    LATERAL (SELECT FROM ${relation} AS x WHERE ${this.sameKey("x", "k")} OFFSET 0) AS there LIMIT 1;`;
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
    const order = (alias: string): string =>
      this.#owned ? `(${alias}.cg_base, ${alias}.cg_version)` : `${alias}.cg_version`;
    const stale = `(${order("r")} <= ${order("d")} OR r.cg_prev = 0
             OR NOT coregent.succeeded(d.cg_version, r.cg_version, r.cg_seen))`;
    const from = `${source} AS k
      JOIN ${this.#tombstone} AS d ON ${this.sameKey("d", "k")}
      JOIN ${this.#target} AS r ON ${this.sameKey("r", "d")}`;
    const own = this.#beside("v", "base", "prev", "seen");
    const base = this.#owned
      ? `,
        cg_base = CASE WHEN ${this.authority(this.ownedHere("t"))} THEN s.${own.v} ELSE s.${own.base} END`
      : "";
    return `${this.#look(source, unless)}
  IF FOUND THEN
    role := current_setting('session_replication_role');
    PERFORM set_config('session_replication_role', 'replica', true);
    UPDATE ${this.#target} AS t
       SET cg_version = s.${own.v}, cg_prev = s.${own.prev}, cg_seen = s.${own.seen}${base}
      FROM (SELECT ${list(key, "d.")}, ${this.#owned ? `d.cg_base AS ${own.base}, ` : ""}d.cg_version AS ${own.prev},
                   ${this.seenAfter("d")} AS ${own.seen},
                   ${this.next(this.highest("r"), this.highest("d"))} AS ${own.v}
              FROM ${from} WHERE ${stale} FOR SHARE OF d) AS s
     WHERE ${this.sameKey("t", "s")};
    IF FOUND AND current_setting('${tellsRestamped}', true) = 'on' THEN
      RAISE NOTICE 'rows were stamped anew' USING ERRCODE = '${restampedCode}';
    END IF;
    PERFORM set_config('session_replication_role', role, true);
  END IF;`;
  }

  /** A role that may not read the gate is told NULL, as if it were open (PostgreSQL 16 refuses it): it opens it, or is refused. */
  openGate(): string {
    const gate = gateOf(this.#table);
    return `BEGIN
  IF pg_catalog.pg_sequence_last_value(${gate}) IS NOT NULL
     OR NOT pg_catalog.has_sequence_privilege(${gate}, 'SELECT, USAGE') THEN
    PERFORM pg_catalog.setval(${gate}, 1, false);
  END IF;
  RETURN NULL;
END`;
  }

  /**
   * A transaction with a snapshot of its own does not see a tombstone that came after it, and would stamp below it.
   * The unique index does see it: the probe raises 40001 (could not serialize access), and is undone where it does not.
   * (READ UNCOMMITTED is READ COMMITTED, and probes for nothing: one comparison costs less than two.)
   */
  probe(source: string): string {
    const { key } = this.#table;
    return `
  IF current_setting('transaction_isolation') <> 'read committed' THEN
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
