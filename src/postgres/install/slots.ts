import type { ClientBase } from "pg";
import { sqlStateOf } from "../sqlstate.ts";
import { requestCopies } from "./copies.ts";
import { slotName } from "./names.ts";

export interface SlotEnd {
  readonly id: number;
  readonly client: ClientBase;
}

const slotExists = async (client: ClientBase, name: string): Promise<boolean> => {
  const { rowCount } = await client.query("SELECT FROM pg_replication_slots WHERE slot_name = $1", [name]);
  return rowCount !== 0;
};

/** False if an agent of the target was faster. */
const createSlot = async (client: ClientBase, name: string): Promise<boolean> => {
  try {
    await client.query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", [name]);
    return true;
  } catch (error) {
    if (sqlStateOf(error) === "42710") return false;
    throw error;
  }
};

const requestAll = async (target: ClientBase, origin: number): Promise<void> => {
  const { rows } = await target.query<{ name: string }>("SELECT name FROM coregent.replicated_table");
  const tables = rows.map((row) => row.name);
  await requestCopies(target, { tables, origins: [origin], reason: "new slot" });
};

/**
 * Makes the slot that `target` reads at `source` if there is none. What the source has written before the slot began
 * must be copied. The copy is asked for before the slot is made, so that there is no slot without it, and
 * once more after, so that a copy which was through too early is done again.
 * @returns whether it was made. The server waits for the transactions that are open at the source.
 */
export const ensureSlot = async (
  { source, target }: { readonly source: SlotEnd; readonly target: SlotEnd },
  cluster: string,
): Promise<boolean> => {
  const name = slotName(cluster, source.id, target.id);
  if (await slotExists(source.client, name)) return false;
  await requestAll(target.client, source.id);
  await target.client.query("DELETE FROM coregent.progress WHERE origin = $1", [source.id]);
  const made = await createSlot(source.client, name);
  await requestAll(target.client, source.id);
  return made;
};

/** Drops every slot of the cluster in the session's database. @throws 55006 where an agent still reads from one */
export const dropSlots = async (
  client: ClientBase,
  { cluster, source }: { readonly cluster: string; readonly source: number },
): Promise<string[]> => {
  const { rows } = await client.query<{ name: string }>(
    `SELECT slot_name AS name FROM pg_replication_slots
      WHERE database = current_database() AND starts_with(slot_name, $1) ORDER BY 1`,
    [slotName(cluster, source, 0).slice(0, -1)],
  );
  for (const { name } of rows) await client.query("SELECT pg_drop_replication_slot($1)", [name]);
  return rows.map((row) => row.name);
};
