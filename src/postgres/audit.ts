import { isIP } from "node:net";
import { hostname, userInfo } from "node:os";
import type { ClientBase } from "pg";
import { sqlStateOf } from "./sqlstate.ts";

/** What an administrator did in a region, as coregent.audit keeps it. */
export interface AuditEntry {
  /** The command: `drain`, `init` and so on; of a request its method and path. */
  readonly action: string;
  /** What it did, in a few words. */
  readonly detail: string;
}

export interface AuditRecord extends AuditEntry {
  readonly at: Date;
  /** Who ran the command, as that machine says. */
  readonly by: string;
  /** The database's role, */
  readonly role: string;
  /** and where the session came from; null: this machine. */
  readonly from: string | null;
}

/** In the transaction that is open on `client`, if one is. Nothing happens where the schema is of an earlier release. */
export const recordAudit = async (client: ClientBase, { action, detail }: AuditEntry): Promise<void> => {
  const { rows } = await client.query<{ there: boolean }>(
    "SELECT to_regclass('coregent.audit') IS NOT NULL AS there",
  );
  if (rows[0]?.there !== true) return;
  await client.query("INSERT INTO coregent.audit (action, detail, by) VALUES ($1, $2, $3)", [
    action,
    detail,
    operator(),
  ]);
};

/** What an administrator asked for at an agent's HTTP endpoint, as that agent knows it. */
export interface AdminRequest extends AuditEntry {
  readonly at: Date;
  /** The token's name. */
  readonly by: string;
  /** The client's address; null: not known. */
  readonly from: string | null;
  /** Tells requests of one millisecond apart. */
  readonly requestId: string;
}

/**
 * Those that are in the table already, since an answer was lost, are not written again. They are in the agent's log.
 */
export const recordRequests = async (
  client: ClientBase,
  requests: readonly AdminRequest[],
): Promise<void> => {
  await client.query(
    `INSERT INTO coregent.audit (at, action, detail, by, address, logged_at)
     SELECT n.at, n.action, n.detail, n.by, n.address, now()
     FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::inet[])
       WITH ORDINALITY AS n(at, action, detail, by, address, place)
     WHERE NOT EXISTS (SELECT FROM coregent.audit o WHERE (o.at, o.detail, o.by) = (n.at, n.detail, n.by))
     ORDER BY n.place`,
    [
      requests.map(({ at }) => at.toISOString()),
      requests.map(({ action }) => action),
      requests.map(({ detail, requestId }) => `${detail}; request ${requestId}`),
      requests.map(({ by }) => by.replaceAll("\0", "\uFFFD")),
      requests.map(({ from }) => inetOf(from)),
    ],
  );
};

/** The type `inet` knows no zones. */
const inetOf = (address: string | null): string | null => {
  const plain = address?.split("%", 1)[0] ?? "";
  return isIP(plain) === 0 ? null : plain;
};

/** Those that no agent has put into its log yet; from now on they are. */
export const takeUnlogged = async (client: ClientBase): Promise<readonly AuditRecord[]> => {
  try {
    const { rows } = await client.query<AuditRecord>({
      name: "audit-unlogged",
      text: `WITH taken AS (UPDATE coregent.audit SET logged_at = now() WHERE logged_at IS NULL RETURNING *)
             SELECT at, action, detail, by, role, host(address) AS "from" FROM taken ORDER BY id`,
    });
    return rows;
  } catch (error) {
    if (notNow.has(sqlStateOf(error) ?? "")) return [];
    throw error;
  }
};

/** The schema is of an earlier release; the database is read-only at the moment. */
const notNow = new Set(["42P01", "25006"]);

const operator = (): string => {
  try {
    return `${userInfo().username}@${hostname()}`;
  } catch {
    // In a container the user may have no name.
    return hostname();
  }
};
