import { latticeFunctionsSql } from "../../../conflict/sql.ts";
import { MAX_CLOCK_MICROS } from "../../../conflict/version.ts";
import { idempotencyFunctionsSql } from "./idempotency.ts";
import { ulidFunctionsSql } from "./ulid.ts";

/** Seconds as a double, which holds microseconds exactly until 2255; without the parsing that date_part does at each call. */
const clockMicros =
  "(tstzrange_subdiff(clock_timestamp(), '1970-01-01 00:00:00+00'::timestamptz) * 1000000)::bigint";

/**
 * Microseconds since 1970. The setting `coregent.clock_offset_us` (a whole number; anything else counts as none) moves
 * the stamping clock, for tests of clock faults; where `coregent.stamp_above` is set besides, it reaches stamps too.
 */
const clockSql = `
CREATE OR REPLACE FUNCTION coregent.clock_us() RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN greatest(0, ${clockMicros}
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
  WHEN current_setting('coregent.stamp_above', true) ~ '^[0-9]{1,19}$'
    THEN CASE WHEN current_setting('coregent.stamp_above', true)::numeric <= 9223372036854775807
              THEN current_setting('coregent.stamp_above', true)::bigint ELSE 0 END
  ELSE 0
END`;

/** The microseconds that a stamp begins from, as the settings have them. PL/pgSQL, so that nothing inlines it. */
const stampMicrosSql = `
CREATE OR REPLACE FUNCTION coregent.stamp_us() RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
  RETURN greatest(least(coregent.clock_us(), ${MAX_CLOCK_MICROS}), (coregent.stamp_above() >> 10) + 1);
END
$body$`;

const stampMicros = `CASE WHEN current_setting('coregent.stamp_above', true) IS NULL
  THEN least(${clockMicros}, ${MAX_CLOCK_MICROS}) ELSE coregent.stamp_us() END`;

/**
 * `coregent.stamp(replaced)`: the version of a local write, above `replaced` and above what its transaction has set; it
 * is next_version(greatest(replaced, stamp_above())), but for a clock's offset without stamp_above (`clock-offset.ts`).
 * `coregent.stamp()`: the same where nothing is replaced (no system's clock is before 1970).
 * Every write pays for each node of these expressions, also for those it does not reach (the server prepares them in each
 * transaction): hence the usual cases by themselves.
 */
const stampSql = `
CREATE OR REPLACE FUNCTION coregent.stamp() RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN ${stampMicros} * 1024 + coregent.region_id();

CREATE OR REPLACE FUNCTION coregent.stamp(replaced bigint) RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN greatest(${stampMicros}, (replaced >> 10) + 1) * 1024 + coregent.region_id()`;

/** `a IS DISTINCT FROM b`, whose operator a trigger's text could not name by its schema. */
const differSql = `
CREATE OR REPLACE FUNCTION coregent.differ(a text, b text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN a IS DISTINCT FROM b`;

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
  stampMicrosSql,
  stampSql,
  takeoverSql,
  differSql,
  ...latticeFunctionsSql,
  ...ulidFunctionsSql,
  ...idempotencyFunctionsSql,
  // Some databases take this from PUBLIC by default privileges; every role that writes needs it.
  `DO $grant$ BEGIN EXECUTE (
     SELECT string_agg(format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', p.oid::regprocedure), ';')
       FROM pg_proc p WHERE p.pronamespace = 'coregent'::regnamespace AND p.prorettype <> 'trigger'::regtype); END $grant$`,
];
