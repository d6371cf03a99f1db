import { latticeFunctionsSql } from "../../../conflict/sql.ts";
import { idempotencyFunctionsSql } from "./idempotency.ts";
import { ulidFunctionsSql } from "./ulid.ts";

/**
 * Microseconds since 1970. The setting `coregent.clock_offset_us` (a whole number; anything else counts as none) moves
 * the stamping clock, for tests of clock faults. A double holds microseconds exactly until 2255.
 */
const clockSql = `
CREATE OR REPLACE FUNCTION coregent.clock_us() RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN greatest(0, (date_part('epoch', clock_timestamp()) * 1000000)::bigint
  + CASE WHEN current_setting('coregent.clock_offset_us', true) ~ '^[+-]?[0-9]{1,16}$'
         THEN current_setting('coregent.clock_offset_us', true)::bigint ELSE 0 END)`;

/**
 * What a transaction's writes are stamped above besides: the setting `coregent.stamp_above`, a version in decimal digits; 0
 * where it is none. A writer sets it to what its client has seen; a row that moves between partitions raises it.
 */
const stampAboveSql = `
CREATE OR REPLACE FUNCTION coregent.stamp_above() RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
  WHEN nullif(current_setting('coregent.stamp_above', true), '') IS NULL THEN 0
  WHEN current_setting('coregent.stamp_above', true) ~ '^[0-9]{1,19}$'
    THEN CASE WHEN current_setting('coregent.stamp_above', true)::numeric <= 9223372036854775807
              THEN current_setting('coregent.stamp_above', true)::bigint ELSE 0 END
  ELSE 0
END`;

/** Whether a transaction writes in place of owners that cannot be reached (conflict/ownership.ts). Never NULL. */
const takeoverSql = `
CREATE OR REPLACE FUNCTION coregent.takeover() RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(current_setting('coregent.takeover', true) = 'on', false)`;

/** Every function of schema `coregent` that belongs to no table, in an order in which each finds what it calls. */
export const functionsSql = (regionId: number): string[] => [
  `CREATE OR REPLACE FUNCTION coregent.region_id() RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN ${regionId}`,
  clockSql,
  stampAboveSql,
  takeoverSql,
  ...latticeFunctionsSql,
  ...ulidFunctionsSql,
  ...idempotencyFunctionsSql,
  // Some databases take this from PUBLIC by default privileges; every role that writes needs it.
  `DO $grant$ BEGIN EXECUTE (
     SELECT string_agg(format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', p.oid::regprocedure), ';')
       FROM pg_proc p WHERE p.pronamespace = 'coregent'::regnamespace AND p.prorettype <> 'trigger'::regtype); END $grant$`,
];
