import { MAX_CLOCK_MICROS } from "./version.ts";

/**
 * The lattice's rules in SQL: the twins of version.ts, state.ts, classify.ts and conflict-log.ts, as pure text.
 *
 * Each is a function with a body parsed at creation (`RETURN ...`), so that no caller's search_path can change what
 * its operators mean, and without SET, STRICT or sub-selects, so that the planner inlines it. The two that must walk
 * an array cannot be inlined; their inlinable wrappers call them only where the short cases do not decide.
 *
 * To be created in the order of `latticeFunctionsSql`, after coregent.region_id() and coregent.clock_us().
 */

/** `coregent.next_version(replaced)`: 22003 (out of range) where no version is left above `replaced`. */
export const nextVersionSql = `
CREATE OR REPLACE FUNCTION coregent.next_version(replaced bigint) RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN greatest(least(coregent.clock_us(), ${MAX_CLOCK_MICROS}), (coalesce(replaced, 0) >> 10) + 1) * 1024
  + coregent.region_id()`;

/** The part of seen_after that walks the array: a write of `region` upon another region's state. */
const seenExtendedSql = `
CREATE OR REPLACE FUNCTION coregent.seen_extended(replaced_seen bigint[], replaced_version bigint, region int)
RETURNS bigint[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
  result bigint[] := '{}';
  placed boolean := false;
  seen bigint;
BEGIN
  FOREACH seen IN ARRAY coalesce(replaced_seen, '{}') LOOP
    CONTINUE WHEN (seen & 1023) IN (region, replaced_version & 1023);
    IF NOT placed AND (seen & 1023) > (replaced_version & 1023) THEN
      result := result || replaced_version;
      placed := true;
    END IF;
    result := result || seen;
  END LOOP;
  IF NOT placed THEN
    result := result || replaced_version;
  END IF;
  RETURN result;
END
$body$`;

/** `coregent.seen_after(seen, version of what is replaced, region that writes)`: the new state's cg_seen. */
export const seenAfterSql = `
CREATE OR REPLACE FUNCTION coregent.seen_after(replaced_seen bigint[], replaced_version bigint, region int)
RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
  WHEN coalesce(replaced_version, 0) = 0 THEN NULL
  WHEN (replaced_version & 1023) = region THEN replaced_seen
  WHEN replaced_seen IS NULL THEN ARRAY[replaced_version]
  ELSE coregent.seen_extended(replaced_seen, replaced_version, region)
END`;

/** Whether an entry of `version`'s region in `seen` is not lower than it. */
const seenCoversSql = `
CREATE OR REPLACE FUNCTION coregent.seen_covers(seen bigint[], version bigint) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
  entry bigint;
BEGIN
  FOREACH entry IN ARRAY seen LOOP
    IF (entry & 1023) = (version & 1023) THEN
      RETURN entry >= version;
    END IF;
  END LOOP;
  RETURN false;
END
$body$`;

/** `coregent.succeeded(loser, winner, winner_seen)`: false means that the two states are in conflict. Never NULL. */
export const succeededSql = `
CREATE OR REPLACE FUNCTION coregent.succeeded(loser_version bigint, winner_version bigint, winner_seen bigint[])
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
  WHEN ((loser_version # winner_version) & 1023) = 0 THEN true
  WHEN winner_seen IS NULL THEN false
  ELSE coregent.seen_covers(winner_seen, loser_version)
END`;

/** `coregent.conflict_type(...)`: kinds are 'row' and 'tombstone'. */
export const conflictTypeSql = `
CREATE OR REPLACE FUNCTION coregent.conflict_type(
  loser_kind text, loser_prev bigint, winner_kind text, winner_prev bigint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
  WHEN loser_kind <> winner_kind THEN 'update_deleted'
  WHEN loser_kind = 'tombstone' THEN 'delete_missing'
  WHEN loser_prev = 0 AND winner_prev = 0 THEN 'insert_exists'
  ELSE 'update_origin_differs'
END`;

/** All of them, in an order in which each finds what it calls. */
export const latticeFunctionsSql: readonly string[] = [
  nextVersionSql,
  seenExtendedSql,
  seenAfterSql,
  seenCoversSql,
  succeededSql,
  conflictTypeSql,
];

/**
 * The order of states as a condition: `a` is strictly higher than `b`.
 * @param a,b what stands before the dot of the state's columns: an alias or a quoted name, e.g. `x`, `"t"`, `EXCLUDED`.
 * @param owned whether the table has `cg_base`.
 */
export const outranks = (a: string, b: string, owned: boolean): string =>
  owned
    ? `(${a}.cg_base, ${a}.cg_version) > (${b}.cg_base, ${b}.cg_version)`
    : `${a}.cg_version > ${b}.cg_version`;
