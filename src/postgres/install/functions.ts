import { latticeFunctionsSql } from "../../../conflict/sql.ts";
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

/** What an insert is stamped above besides the clock: set while a row moves between partitions. */
const stampAboveSql = `
CREATE OR REPLACE FUNCTION coregent.stamp_above() RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN current_setting('coregent.stamp_above', true) ~ '^[0-9]{1,19}$'
            THEN least(current_setting('coregent.stamp_above', true)::numeric, 9223372036854775807)::bigint
            ELSE 0 END`;

/** Every function of schema `coregent` that belongs to no table, in an order in which each finds what it calls. */
export const functionsSql = (regionId: number): string[] => [
  `CREATE OR REPLACE FUNCTION coregent.region_id() RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN ${regionId}`,
  clockSql,
  stampAboveSql,
  ...latticeFunctionsSql,
  ...ulidFunctionsSql,
  // Some databases take this from PUBLIC by default privileges; every role that writes needs it.
  `DO $grant$ BEGIN EXECUTE (
     SELECT string_agg(format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', p.oid::regprocedure), ';')
       FROM pg_proc p WHERE p.pronamespace = 'coregent'::regnamespace AND p.prorettype <> 'trigger'::regtype); END $grant$`,
];
