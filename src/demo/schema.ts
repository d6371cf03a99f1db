/**
 * Weightbook, the demo's application: people, their workouts and what the scales said. It is an ordinary schema;
 * nothing in it knows of Coregent but the last part.
 *
 * - Keys are ULIDs in uuid columns: 16 bytes instead of 26, known to every driver and ORM, and in order of creation.
 * - `workouts` and the sets in them belong to the region of their author (`home_region`); `users` and `weigh_ins`
 *   belong to nobody, so of two concurrent writes the later one stays.
 * - No unique constraint beside the keys: uniqueness across regions cannot be refused when a region is cut off.
 */
export const weightbookSchema = `
CREATE TABLE IF NOT EXISTS users (
  id           uuid PRIMARY KEY,
  name         text NOT NULL CHECK (name <> ''),
  home_region  text NOT NULL,
  born         date NOT NULL,
  height_cm    smallint NOT NULL CHECK (height_cm BETWEEN 50 AND 260),
  goal_kg      numeric(5, 2),
  created_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS weigh_ins (
  id           uuid PRIMARY KEY,
  user_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
  taken_at     timestamptz NOT NULL DEFAULT now(),
  weight_kg    numeric(5, 2) NOT NULL CHECK (weight_kg BETWEEN 20 AND 400),
  note         text
);
CREATE INDEX IF NOT EXISTS weigh_ins_by_user ON weigh_ins (user_id, taken_at);

CREATE TABLE IF NOT EXISTS workouts (
  id           uuid PRIMARY KEY,
  user_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
  home_region  text NOT NULL,
  started_at   timestamptz NOT NULL DEFAULT now(),
  title        text NOT NULL,
  minutes      smallint CHECK (minutes > 0),
  tags         text[] NOT NULL DEFAULT '{}'
);
CREATE INDEX IF NOT EXISTS workouts_by_user ON workouts (user_id, started_at);

CREATE TABLE IF NOT EXISTS workout_sets (
  workout_id   uuid NOT NULL REFERENCES workouts ON DELETE CASCADE,
  position     smallint NOT NULL,
  home_region  text NOT NULL,
  exercise     text NOT NULL,
  repetitions  smallint NOT NULL CHECK (repetitions > 0),
  weight_kg    numeric(6, 2),
  PRIMARY KEY (workout_id, position)
);
`;

/** After `coregent init`, which makes the function: rows that come without a key get a ULID. */
export const weightbookKeys = `
ALTER TABLE users ALTER COLUMN id SET DEFAULT coregent.ulid_uuid();
ALTER TABLE weigh_ins ALTER COLUMN id SET DEFAULT coregent.ulid_uuid();
ALTER TABLE workouts ALTER COLUMN id SET DEFAULT coregent.ulid_uuid();
`;

/** Tables whose rows have an owner, and the column that names it; the others are plain. Parents come first. */
export const weightbookTables = [
  { name: "users", owner: null },
  { name: "weigh_ins", owner: null },
  { name: "workouts", owner: "home_region" },
  { name: "workout_sets", owner: "home_region" },
] as const;

export type WeightbookTable = (typeof weightbookTables)[number]["name"];
