import type { ClientBase } from "pg";
import type { Person } from "./generator.ts";

/**
 * Writes one person and all that hangs on him or her in one transaction; what is there already stays.
 * @returns the number of rows written
 */
export const insertPerson = async (client: ClientBase, person: Person): Promise<number> => {
  await client.query("BEGIN");
  try {
    const counts = [
      await insert(client, "users", [person.user]),
      await insert(client, "weigh_ins", person.weighIns),
      await insert(client, "workouts", person.workouts),
      await insert(client, "workout_sets", person.sets),
    ];
    await client.query("COMMIT");
    return counts.reduce((a, b) => a + b, 0);
  } catch (error) {
    await client.query("ROLLBACK").catch(() => undefined);
    throw error;
  }
};

type Table = "users" | "weigh_ins" | "workouts" | "workout_sets";

/** The columns by name, so that columns which others added (`cg_...`) get their defaults. */
const columns: Record<Table, string> = {
  users: "id, name, home_region, born, height_cm, goal_kg, created_at",
  weigh_ins: "id, user_id, taken_at, weight_kg, note",
  workouts: "id, user_id, home_region, started_at, title, minutes, tags",
  workout_sets: "workout_id, position, home_region, exercise, repetitions, weight_kg",
};

const insert = async (client: ClientBase, table: Table, rows: readonly object[]): Promise<number> => {
  const result = await client.query(
    `INSERT INTO public.${table} (${columns[table]})
     SELECT ${columns[table]} FROM jsonb_populate_recordset(NULL::public.${table}, $1::jsonb)
     ON CONFLICT DO NOTHING`,
    [JSON.stringify(rows)],
  );
  return result.rowCount ?? 0;
};
