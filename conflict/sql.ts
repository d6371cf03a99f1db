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

/**
 * `coregent.retracts(loser, incoming, incoming_seen)`: whether this region's own report (detected_in =
 * coregent.region_id()) of that loser goes when it merges `incoming`. To be asked for every state that replaces the
 * one held of its key, a conflict or not.
 */
export const retractsSql = `
CREATE OR REPLACE FUNCTION coregent.retracts(loser_version bigint, incoming_version bigint, incoming_seen bigint[])
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
  WHEN (loser_version & 1023) <> coregent.region_id()
    THEN coregent.succeeded(loser_version, incoming_version, incoming_seen)
  ELSE coalesce(loser_version = ANY (incoming_seen), false)
END`;

/**
 * `coregent.reports(loser, winner, winner_seen, loser_was_held)`: whether this region reports the conflict. One of
 * its own writes which comes back from a peer and loses (loser_was_held false) was judged when it was overruled here.
 */
export const reportsSql = `
CREATE OR REPLACE FUNCTION coregent.reports(
  loser_version bigint, winner_version bigint, winner_seen bigint[], loser_was_held boolean) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN (loser_was_held OR (loser_version & 1023) <> coregent.region_id())
  AND NOT coregent.succeeded(loser_version, winner_version, winner_seen)`;

/**
 * The floor of a region's stamps on tables with owners (`Write.above` in state.ts): the highest version that a merge
 * has replaced by a state of a lower one. A sequence, because it can be read without a query and is not undone by
 * an abort; what it holds may only be too high.
 */
export const floorSequenceSql = `
CREATE SEQUENCE IF NOT EXISTS coregent.floor AS bigint MINVALUE 1 START 1 NO CYCLE`;

/** Every role that writes stamps, and without this the server answers NULL (17 on) or refuses (16). */
const floorGrantSql = "GRANT SELECT ON SEQUENCE coregent.floor TO PUBLIC";

/** `coregent.floor_version()`: 0 while no merge has replaced a higher version by a lower. Never NULL. */
export const floorVersionSql = `
CREATE OR REPLACE FUNCTION coregent.floor_version() RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE
RETURN coalesce(pg_sequence_last_value('coregent.floor'), 0)`;

/**
 * `coregent.raise_floor(version)`: for merges on a table with owners that replace a state by one of a lower version
 * (and higher base), with the highest version so replaced, before the merge commits. The lock is held for
 * this call only, so merges of several links neither undo each other's nor wait for each other's commit.
 */
export const raiseFloorSql = `
CREATE OR REPLACE FUNCTION coregent.raise_floor(version bigint) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
  IF version <= coregent.floor_version() THEN
    RETURN;
  END IF;
  PERFORM pg_advisory_lock(hashtextextended('coregent.floor', 0));
  PERFORM setval('coregent.floor', greatest(version, coregent.floor_version()));
  PERFORM pg_advisory_unlock(hashtextextended('coregent.floor', 0));
END
$body$`;

/** All of them, in an order in which each finds what it calls. */
export const latticeFunctionsSql: readonly string[] = [
  nextVersionSql,
  seenExtendedSql,
  seenAfterSql,
  seenCoversSql,
  succeededSql,
  conflictTypeSql,
  retractsSql,
  reportsSql,
  floorSequenceSql,
  floorGrantSql,
  floorVersionSql,
  raiseFloorSql,
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
