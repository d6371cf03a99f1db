/**
 * Coregent's own schema, step by step. A step that has been released is never changed: what comes later is a new step.
 */
export interface Migration {
  readonly version: number;
  readonly sql: string;
}

const first = `
CREATE SCHEMA IF NOT EXISTS coregent;
REVOKE ALL ON SCHEMA coregent FROM PUBLIC;
-- Applications call coregent.ulid(), and their writes call the stamping functions. Tables stay private.
GRANT USAGE ON SCHEMA coregent TO PUBLIC;

CREATE TABLE coregent.migration (
  version int PRIMARY KEY,
  applied_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE coregent.local (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  cluster text NOT NULL,
  region_id int NOT NULL CHECK (region_id BETWEEN 1 AND 1023),
  region_name text NOT NULL,
  incarnation uuid NOT NULL DEFAULT gen_random_uuid(),
  functions text NOT NULL DEFAULT '',
  installed_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE coregent.replicated_table (
  name text COLLATE "C" PRIMARY KEY,
  schema_name text NOT NULL,
  table_name text NOT NULL,
  tombstone text NOT NULL,
  key_columns text[] NOT NULL,
  owner_column text,
  failover text NOT NULL,
  conflict_policy text NOT NULL,
  logs_conflicts bool NOT NULL,
  baseline bigint NOT NULL,
  -- Digest of the table's trigger functions and triggers as they were made.
  definition text NOT NULL,
  installed_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE coregent.progress (
  origin int PRIMARY KEY,
  incarnation uuid NOT NULL,
  lsn pg_lsn NOT NULL,
  commit_time timestamptz,
  updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE coregent.table_sync (
  origin int NOT NULL,
  table_name text COLLATE "C" NOT NULL,
  kind text NOT NULL CHECK (kind IN ('own', 'full')),
  -- Why it is to be copied.
  reason text NOT NULL,
  -- Why it cannot be yet: the table is missing on one side, or differs.
  misfit text,
  rows_done bigint NOT NULL DEFAULT 0,
  rows_total bigint,
  started_at timestamptz,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (origin, table_name)
);
CREATE TABLE coregent.quarantine (
  table_name text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  kind text NOT NULL CHECK (kind IN ('row', 'tombstone')),
  base bigint NOT NULL DEFAULT 0,
  version bigint NOT NULL,
  prev bigint NOT NULL DEFAULT 0,
  seen bigint[],
  origin int NOT NULL,
  payload jsonb,
  sqlstate text,
  reason text NOT NULL,
  attempts int NOT NULL DEFAULT 1,
  first_at timestamptz NOT NULL DEFAULT now(),
  next_try_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (table_name, key)
);
CREATE TABLE coregent.conflict (
  table_name text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  loser_version bigint NOT NULL,
  type text NOT NULL,
  loser_kind text NOT NULL,
  loser_base bigint,
  loser_seen bigint[],
  loser_row jsonb,
  winner_kind text,
  winner_version bigint,
  winner_base bigint,
  detected_in int,
  detected_at timestamptz,
  -- One report per loser and reporting region, see conflict/conflict-log.ts.
  PRIMARY KEY (table_name, key, loser_version, detected_in)
);
CREATE PUBLICATION coregent WITH (publish = 'insert, update', publish_via_partition_root = true);
`;

/** Of the regional writer: replicated tables of our own, as coregent.conflict is. */
const second = `
CREATE TABLE coregent.idempotency (
  scope text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  request_hash text NOT NULL,
  -- Where it was carried out; that region deletes it when it has expired.
  region int NOT NULL,
  answer text,
  created_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (scope, key)
);
CREATE INDEX ON coregent.idempotency (expires_at);
-- A row for each region, written by it alone: a change that reaches all peers, so that they tell how far they are.
CREATE TABLE coregent.pulse (
  region int PRIMARY KEY,
  at timestamptz NOT NULL
);
`;

/** Since when the region is out for maintenance (`coregent drain`); null: it is not. */
const third = `
ALTER TABLE coregent.local ADD COLUMN drained_at timestamptz;
`;

/** What administrators do by commands (audit.ts). Each region's own; the agent puts it into its log as well. */
const fourth = `
CREATE TABLE coregent.audit (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  action text NOT NULL,
  detail text NOT NULL,
  by text NOT NULL,
  role text NOT NULL DEFAULT session_user,
  address inet DEFAULT inet_client_addr(),
  logged_at timestamptz
);
CREATE INDEX ON coregent.audit (id) WHERE logged_at IS NULL;
`;

export const migrations: readonly Migration[] = [
  { version: 1, sql: first },
  { version: 2, sql: second },
  { version: 3, sql: third },
  { version: 4, sql: fourth },
];
