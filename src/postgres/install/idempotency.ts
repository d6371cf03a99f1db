/**
 * What `src/write/idempotency.ts` asks of a database in one round trip each. The lock and the record must be looked at in this
 * order and with two snapshots: a transaction gives its lock up when its record can be seen. A function that is VOLATILE
 * takes a snapshot for each of its statements.
 */

/** The advisory lock of a key: whoever carries its request out holds it until the transaction has ended. */
const lockSql = `
CREATE OR REPLACE FUNCTION coregent.idempotency_lock(scope text, key text) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN hashtextextended(concat('coregent idempotency ', length(scope), ':', scope, key), 0)`;

/**
 * One row: whether nobody else carries the request out here, and the record if there is one that has not expired (else
 * `request_hash` is null). With `claiming` the transaction takes the lock if it is free.
 */
const findSql = `
CREATE OR REPLACE FUNCTION coregent.idempotency_find(
  wanted_scope text, wanted_key text, claiming boolean,
  OUT free boolean, OUT request_hash text, OUT region int, OUT answer text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
  lock bigint := coregent.idempotency_lock(wanted_scope, wanted_key);
BEGIN
  IF claiming THEN
    free := pg_try_advisory_xact_lock(lock);
  ELSE
    free := NOT EXISTS (
      SELECT FROM pg_locks l
       WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
         AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
         AND l.classid::bigint = (lock >> 32) & 4294967295 AND l.objid::bigint = lock & 4294967295);
  END IF;
  SELECT i.request_hash, i.region, i.answer INTO request_hash, region, answer
    FROM coregent.idempotency i
   WHERE i.scope = wanted_scope AND i.key = wanted_key AND i.expires_at > clock_timestamp();
END
$body$`;

export const idempotencyFunctionsSql: readonly string[] = [lockSql, findSql];
