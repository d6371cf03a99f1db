import type { TableOptions } from "../../src/testing/index.ts";
import type { Table } from "../convergence/tables.ts";

const content = ["home_region", "token", "n"] as const;
const parts = { key: ["id"], scope: "id", content, big: false } as const;

/** One with the usual takeover, one whose returning owner wins, one that nobody owns. */
export const tables = [
  { ...parts, name: "taken", owner: "home_region" },
  { ...parts, name: "lent", owner: "home_region" },
  { ...parts, name: "plain", owner: null },
] as const satisfies readonly Table[];

export type TableName = (typeof tables)[number]["name"];

export const tableOptions: readonly TableOptions[] = [
  { name: "public.taken", owner: "home_region" },
  { name: "public.lent", owner: "home_region", failover: "provisional" },
];

/** `token` tells which request wrote a row last. */
export const schema = tables
  .map(
    ({ name }) =>
      `CREATE TABLE ${name} (id text COLLATE "C" PRIMARY KEY, home_region text, token text NOT NULL, n int NOT NULL);`,
  )
  .join("\n");

/**
 * In each region, beside what is replicated: what was committed there by whom, told by triggers and so by the server
 * itself. What merges bring fires none of them. It is looked for at COMMIT, since a new row is stamped once more where a
 * tombstone is in its way. A request writes one row.
 */
export const effectsSql = `
  CREATE SCHEMA audit;
  CREATE TABLE audit.effect (
    n bigint GENERATED ALWAYS AS IDENTITY, xid text NOT NULL DEFAULT pg_current_xact_id()::text, op text NOT NULL,
    "table" text NOT NULL, key text NOT NULL, base text NOT NULL, version text NOT NULL, prev text NOT NULL, content json);
  CREATE FUNCTION audit.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
  DECLARE
    relation text := CASE WHEN TG_OP <> 'DELETE' THEN format('public.%I', TG_TABLE_NAME) ELSE
      (SELECT format('coregent.%I', tombstone) FROM coregent.replicated_table
        WHERE schema_name = 'public' AND table_name = TG_TABLE_NAME) END;
    state jsonb;
  BEGIN
    EXECUTE format('SELECT to_jsonb(t) FROM %s AS t WHERE id = $1', relation)
      INTO STRICT state USING coalesce(NEW.id, OLD.id);
    INSERT INTO audit.effect (op, "table", key, base, version, prev, content)
    VALUES (lower(TG_OP), TG_TABLE_NAME, jsonb_build_array(state ->> 'id')::text, coalesce(state ->> 'cg_base', '0'),
      state ->> 'cg_version', state ->> 'cg_prev', CASE WHEN TG_OP <> 'DELETE' THEN
      json_build_object('home_region', state ->> 'home_region', 'token', state ->> 'token', 'n', state ->> 'n') END);
    RETURN NULL;
  END $$;
  ${tables
    .map(
      ({ name }) => `
  CREATE CONSTRAINT TRIGGER noted AFTER INSERT OR UPDATE OR DELETE ON ${name} DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION audit.note();`,
    )
    .join("")}`;
