/**
 * ULIDs in SQL, of the same form as the npm package `ulid`: 48 bits of milliseconds, 80 of chance, 26 characters.
 *
 * `coregent.ulid()` is monotonic within a transaction: what it gave last stands in the transaction's setting
 * `coregent.last_ulid`, as time, upper and lower 40 bits. Within one millisecond it goes up by a random step, so
 * that a value given out before ROLLBACK TO SAVEPOINT (which takes the setting back) is not given out again.
 */

const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/** Eight characters for 40 bits, ten for the time's 48. */
const encode = (value: string, characters: number): string =>
  Array.from(
    { length: characters },
    (_, i) => `substr('${alphabet}', ((${value} >> ${5 * (characters - 1 - i)}) & 31)::int + 1, 1)`,
  ).join(" || ");

const decode = (text: string, from: number, characters: number): string =>
  Array.from(
    { length: characters },
    (_, i) =>
      `((strpos('${alphabet}', substr(${text}, ${from + i}, 1)) - 1)::bigint << ${5 * (characters - 1 - i)})`,
  ).join(" + ");

const encodeSql = `
CREATE OR REPLACE FUNCTION coregent.ulid_encode(ms bigint, upper bigint, lower bigint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ${encode("ms", 10)} || ${encode("upper", 8)} || ${encode("lower", 8)}`;

const hexSql = `
CREATE OR REPLACE FUNCTION coregent.ulid_hex(ms bigint, upper bigint, lower bigint) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (lpad(to_hex(ms), 12, '0') || lpad(to_hex(upper), 10, '0') || lpad(to_hex(lower), 10, '0'))::uuid`;

/** Forty random bits: the last five bytes of a version 4 uuid hold nothing but chance. */
const chanceSql = `
CREATE OR REPLACE FUNCTION coregent.ulid_chance() RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN ('x' || right(gen_random_uuid()::text, 10))::bit(40)::bigint`;

const nextSql = `
CREATE OR REPLACE FUNCTION coregent.ulid_next(OUT ms bigint, OUT upper bigint, OUT lower bigint)
LANGUAGE plpgsql VOLATILE
AS $body$
DECLARE
  last text := current_setting('coregent.last_ulid', true);
  last_ms bigint;
BEGIN
  ms := coregent.clock_us() / 1000;
  IF last ~ '^[0-9]{1,15}:[0-9]{1,13}:[0-9]{1,13}$' THEN
    last_ms := split_part(last, ':', 1)::bigint;
  END IF;
  IF last_ms >= ms THEN
    ms := last_ms;
    upper := split_part(last, ':', 2)::bigint;
    lower := split_part(last, ':', 3)::bigint + 1 + (coregent.ulid_chance() >> 8);
    upper := upper + (lower >> 40);
    lower := lower & 1099511627775;
    ms := ms + (upper >> 40);
    upper := upper & 1099511627775;
  ELSE
    upper := coregent.ulid_chance();
    lower := coregent.ulid_chance();
  END IF;
  PERFORM set_config('coregent.last_ulid', concat(ms, ':', upper, ':', lower), true);
END
$body$`;

const ulidSql = `
CREATE OR REPLACE FUNCTION coregent.ulid() RETURNS text
LANGUAGE plpgsql VOLATILE
AS $body$
DECLARE
  n record;
BEGIN
  n := coregent.ulid_next();
  RETURN coregent.ulid_encode(n.ms, n.upper, n.lower);
END
$body$`;

const ulidUuidSql = `
CREATE OR REPLACE FUNCTION coregent.ulid_uuid() RETURNS uuid
LANGUAGE plpgsql VOLATILE
AS $body$
DECLARE
  n record;
BEGIN
  n := coregent.ulid_next();
  RETURN coregent.ulid_hex(n.ms, n.upper, n.lower);
END
$body$`;

/** Takes lower case too, as the npm package does; 22P02 for what is no ULID (more than 128 bits is none). */
const ulidToUuidSql = `
CREATE OR REPLACE FUNCTION coregent.ulid_to_uuid(ulid text) RETURNS uuid
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $body$
DECLARE
  u text := pg_catalog.upper(ulid);
BEGIN
  IF u !~ '^[0-7][${alphabet}]{25}$' THEN
    RAISE EXCEPTION 'invalid ULID: "%"', ulid USING ERRCODE = 'invalid_text_representation';
  END IF;
  RETURN coregent.ulid_hex(${decode("u", 1, 10)}, ${decode("u", 11, 8)}, ${decode("u", 19, 8)});
END
$body$`;

const uuidToUlidSql = `
CREATE OR REPLACE FUNCTION coregent.uuid_to_ulid(id uuid) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $body$
DECLARE
  hex text := replace(id::text, '-', '');
BEGIN
  RETURN coregent.ulid_encode(
    ('x' || substr(hex, 1, 12))::bit(48)::bigint,
    ('x' || substr(hex, 13, 10))::bit(40)::bigint,
    ('x' || substr(hex, 23, 10))::bit(40)::bigint);
END
$body$`;

/** To be created after coregent.clock_us(), in this order. */
export const ulidFunctionsSql: readonly string[] = [
  encodeSql,
  hexSql,
  chanceSql,
  nextSql,
  ulidSql,
  ulidUuidSql,
  ulidToUuidSql,
  uuidToUlidSql,
];
