import { hostname, userInfo } from "node:os";
import type { ClientBase } from "pg";
import { sqlStateOf } from "./sqlstate.ts";

/** What an administrator did in a region by a command, as coregent.audit keeps it. */
export interface AuditEntry {
  /** The command: `drain`, `init` and so on. */
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
