import type { ClientBase } from "pg";
import { clusterSlug } from "../../regions/topology.ts";
import { recordAudit } from "../postgres/audit.ts";
import { slotName } from "../postgres/install/names.ts";
import { pulse } from "./pulse.ts";

/** Whether the region is out for maintenance, and since when. `known`: false where Coregent's schema is too old to say. */
export interface DrainState {
  readonly known: boolean;
  readonly since: Date | null;
}

export const readDrainState = async (client: ClientBase): Promise<DrainState> => {
  const { rows } = await client.query<{ known: boolean; since: Date | null }>(
    `SELECT to_jsonb(l) ? 'drained_at' AS known, (to_jsonb(l) ->> 'drained_at')::timestamptz AS since
       FROM coregent.local AS l`,
  );
  return rows[0] ?? { known: false, since: null };
};

/**
 * Takes the region out, or back in, and puts that on record. Every endpoint reads it with its next probe. Where it throws,
 * nothing is done, and the session is to be ended.
 * @returns since when it is out
 */
export const setDrained = async (client: ClientBase, drained: boolean): Promise<Date | null> => {
  await client.query("BEGIN");
  const { rows } = await client.query<{ before: Date | null; since: Date | null }>(
    `UPDATE coregent.local AS l SET drained_at = CASE WHEN $1 THEN coalesce(l.drained_at, now()) END
       FROM (SELECT drained_at FROM coregent.local FOR UPDATE) AS o
     RETURNING o.drained_at AS before, l.drained_at AS since`,
    [drained],
  );
  const { before = null, since = null } = rows[0] ?? {};
  const change = drained ? "takes no more writes from endpoints" : "takes writes again";
  const again = (before !== null) === drained ? ", as before" : "";
  await recordAudit(client, { action: drained ? "drain" : "resume", detail: `${change}${again}` });
  await client.query("COMMIT");
  return since;
};

export interface Peer {
  readonly name: string;
  readonly id: number;
  /** A session with its database; null: it cannot be reached. */
  readonly client: ClientBase | null;
}

/** What still keeps a drained region from being taken down. */
export interface Outstanding {
  /** Transactions of endpoints that are open there. */
  readonly endpointTransactions: number;
  /** Transactions of applications that are open there and have written. */
  readonly applicationTransactions: number;
  /** Names of the regions that have not confirmed what was written there. */
  readonly unconfirmed: readonly string[];
  /** Tables that a region has still to copy from there: what they hold may not have come by the stream. */
  readonly copies: readonly { readonly peer: string; readonly tables: readonly string[] }[];
}

export const isClear = ({
  endpointTransactions,
  applicationTransactions,
  unconfirmed,
  copies,
}: Outstanding): boolean =>
  endpointTransactions + applicationTransactions === 0 && unconfirmed.length === 0 && copies.length === 0;

interface Look {
  readonly endpoints: number;
  readonly applications: number;
  readonly position: string;
  readonly confirmed: Readonly<Record<string, string>>;
}

const lookSql = `
SELECT count(*) FILTER (WHERE a.xact_start IS NOT NULL AND a.application_name LIKE 'coregent writer %')::int AS endpoints,
       count(*) FILTER (WHERE a.backend_xid IS NOT NULL AND a.application_name NOT LIKE 'coregent %')::int AS applications,
       (pg_current_wal_insert_lsn() - '0/0')::text AS position,
       (SELECT coalesce(jsonb_object_agg(slot_name, (confirmed_flush_lsn - '0/0')::text), '{}')
          FROM pg_replication_slots
         WHERE slot_name = ANY ($1::text[]) AND database = current_database()
           AND confirmed_flush_lsn IS NOT NULL) AS confirmed
  FROM pg_stat_activity AS a
 WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()`;

export interface DrainWatchOptions {
  readonly cluster: string;
  /** The id of the region that is drained. */
  readonly region: number;
  readonly peers: readonly Peer[];
}

/**
 * Looks again and again at a region that is drained. Once nobody writes there, the position of its WAL is marked, and what
 * peers have confirmed is held against the mark; a write that comes nevertheless takes the mark away.
 */
export class DrainWatch {
  readonly #client: ClientBase;
  readonly #options: DrainWatchOptions;
  readonly #slots: ReadonlyMap<string, string>;
  #mark: bigint | null = null;

  constructor(client: ClientBase, options: DrainWatchOptions) {
    this.#client = client;
    this.#options = options;
    const slug = clusterSlug(options.cluster);
    this.#slots = new Map(options.peers.map(({ name, id }) => [slotName(slug, options.region, id), name]));
  }

  async look(): Promise<Outstanding> {
    const { region, peers } = this.#options;
    const { rows } = await this.#client.query<Look>(lookSql, [[...this.#slots.keys()]]);
    const [seen] = rows;
    if (seen === undefined) throw new Error("an aggregate gives one row");
    const { endpoints, applications, position, confirmed } = seen;
    if (endpoints + applications > 0) this.#mark = null;
    else if (this.#mark === null) {
      this.#mark = BigInt(position);
      // Peers confirm changes, and the mark may lie behind what is none of theirs.
      await pulse({ query: (config) => this.#client.query(config) });
    }
    const mark = this.#mark;
    const unconfirmed = [...this.#slots]
      .filter(([slot]) => mark === null || BigInt(confirmed[slot] ?? "0") < mark)
      .map(([, name]) => name);
    const copies: { readonly peer: string; readonly tables: readonly string[] }[] = [];
    for (const { name, client } of peers) {
      const tables = await copiesDue(client, region).catch(() => null);
      if (tables === null) {
        if (!unconfirmed.includes(name)) unconfirmed.push(name);
      } else if (tables.length > 0) {
        copies.push({ peer: name, tables });
      }
    }
    return { endpointTransactions: endpoints, applicationTransactions: applications, unconfirmed, copies };
  }
}

/** null: not known. */
const copiesDue = async (client: ClientBase | null, origin: number): Promise<readonly string[] | null> => {
  if (client === null) return null;
  const { rows } = await client.query<{ table: string }>(
    'SELECT table_name AS "table" FROM coregent.table_sync WHERE origin = $1 ORDER BY table_name',
    [origin],
  );
  return rows.map(({ table }) => table);
};
