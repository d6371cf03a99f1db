import type { ClientBase } from "pg";
import type { Clock } from "../clock.ts";
import { sqlStateOf } from "../postgres/sqlstate.ts";
import type { Database } from "./position.ts";

/** A request that is to have one effect, however often it is sent. */
export interface IdempotencyKey {
  /** Who may use the key: keys of different callers never meet. */
  readonly scope: string;
  readonly key: string;
  /** Of all that makes the request: the same key with another hash is a mistake. */
  readonly requestHash: string;
}

/** What was answered, and by which region. */
export interface IdempotencyRecord {
  readonly requestHash: string;
  readonly region: number;
  /** What `keepAnswer` was given; null: it was too large to be kept. */
  readonly answer: string | null;
}

/**
 * What a key comes to at one master:
 * - `new`: it has not been carried out here (or that has expired).
 * - `in-flight`: it is being carried out at this moment. 409, to be sent again.
 * - `replayed`: it was carried out; the answer is that of then.
 * - `reused`: it was carried out with another payload. 422.
 */
export type Claim =
  | { readonly kind: "new" | "in-flight" | "reused" }
  | { readonly kind: "replayed"; readonly record: IdempotencyRecord };

interface FoundRow {
  readonly free: boolean;
  readonly request_hash: string | null;
  readonly region: number | null;
  readonly answer: string | null;
}

const find = async (database: Database, id: IdempotencyKey, claiming: boolean): Promise<Claim> => {
  const { rows } = await database.query<FoundRow>({
    name: "coregent idempotency find",
    text: "SELECT free, request_hash, region, answer FROM coregent.idempotency_find($1, $2, $3)",
    values: [id.scope, id.key, claiming],
  });
  const row = rows[0];
  // Also while it is locked: who locks it then is about to find the record too.
  if (row !== undefined && row.request_hash !== null && row.region !== null) {
    const { request_hash: requestHash, region, answer } = row;
    if (requestHash !== id.requestHash) return { kind: "reused" };
    return { kind: "replayed", record: { requestHash, region, answer } };
  }
  return { kind: row?.free === true ? "new" : "in-flight" };
};

/**
 * To be called first in the write's transaction, which must be READ COMMITTED. For `new` the transaction holds the key until
 * it ends; in the other cases it is to be rolled back.
 */
export const claimKey = (client: ClientBase, id: IdempotencyKey): Promise<Claim> => find(client, id, true);

/** What a key comes to at a master where it is not to be carried out. */
export const lookUpKey = (database: Database, id: IdempotencyKey): Promise<Claim> =>
  find(database, id, false);

export interface AnswerToKeep {
  /** As `resultsToJson` makes it, or whatever brings the answer back. */
  readonly answer: string;
  readonly expiresAfterMs: number;
}

/** In bytes of UTF-8. A longer answer is not kept: then the repeated request is answered without rows. */
export const maxAnswerBytes = 256 * 1024;
export const defaultExpiresAfterMs = 24 * 3_600_000;

/** The key was carried out by somebody else in the meantime: the transaction must not be committed. Begin again. */
export class KeyTaken extends Error {
  override readonly name = "KeyTaken";
}

/**
 * To be called last in the write's transaction: record and effect are committed, and reach the peers, as one.
 * @throws KeyTaken when a peer's record has just been merged
 */
export const keepAnswer = async (
  client: ClientBase,
  id: IdempotencyKey,
  { answer, expiresAfterMs }: AnswerToKeep,
): Promise<void> => {
  const kept = Buffer.byteLength(answer) <= maxAnswerBytes ? answer : null;
  const { rowCount } = await client.query({
    name: "coregent idempotency keep",
    text: `INSERT INTO coregent.idempotency AS i (scope, key, request_hash, region, answer, created_at, expires_at)
           SELECT $1, $2, $3, coregent.region_id(), $4, t.now, t.now + $5::float8 * interval '1 millisecond'
             FROM (SELECT clock_timestamp() AS now) AS t
           ON CONFLICT (scope, key) DO UPDATE SET request_hash = excluded.request_hash, region = excluded.region,
             answer = excluded.answer, created_at = excluded.created_at, expires_at = excluded.expires_at
            WHERE i.expires_at <= clock_timestamp()`,
    values: [id.scope, id.key, id.requestHash, kept, expiresAfterMs],
  });
  if (rowCount !== 1) throw new KeyTaken("another region's record of this idempotency key has arrived");
};

export interface Peer {
  readonly region: number;
  readonly database: Database;
}

/** What the other regions say of a key. */
export interface PeersSay {
  /** `new`: none of those that answered knows it. */
  readonly claim: Claim;
  /** Those in which it is being carried out. */
  readonly inFlight: readonly number[];
  /** Those that did not answer in time: they may have carried it out, or be about to. */
  readonly unreachable: readonly number[];
}

/**
 * Asks all the others at once. To be called while the own transaction holds the key: of two regions that are sent the same
 * key at once, at least one then sees the other.
 */
export const askPeers = async (
  peers: readonly Peer[],
  id: IdempotencyKey,
  { clock, timeoutMs }: { readonly clock: Clock; readonly timeoutMs: number },
): Promise<PeersSay> => {
  const answered = new AbortController();
  const late = clock.sleep(timeoutMs, answered.signal).then(
    () => null,
    () => null,
  );
  const asked = peers.map(async ({ region, database }) => ({
    region,
    claim: await Promise.race([lookUpKey(database, id).catch(() => null), late]),
  }));
  const said = await Promise.all(asked);
  answered.abort();
  const known = said.flatMap(({ claim }) => (claim === null || claim.kind === "new" ? [] : [claim]));
  // A record says more than a lock: who holds the lock there will find the record too.
  const claim = known.find(({ kind }) => kind !== "in-flight") ?? known[0] ?? { kind: "new" };
  return {
    claim,
    inFlight: said.flatMap((each) => (each.claim?.kind === "in-flight" ? [each.region] : [])),
    unreachable: said.flatMap((each) => (each.claim === null ? [each.region] : [])),
  };
};

/**
 * Whether a request has one effect although some regions could not be asked. Rows that are inserted under keys which every
 * region chooses alike (given by the caller, or derived from the idempotency key) are one row in the end; anything
 * else would be done once in each part of a partition.
 */
export const isOnceOnly = (facts: {
  readonly unreachable: readonly number[];
  readonly insertsUnderFixedKeysOnly: boolean;
}): boolean => facts.unreachable.length === 0 || facts.insertsUnderFixedKeysOnly;

export interface Unsettled {
  /** How long to wait for the lost session to end at the server. */
  readonly waitMs: number;
  /** Process id of that session at the server, which is ended if it still holds the key. */
  readonly backend: number | null;
}

/**
 * After an unknown outcome: asks the same master, on another session, whether the write was committed. `new`: it was not, and
 * never will be, so it may be sent again. `in-flight`: not known yet.
 * @throws what the driver throws; then the outcome stays unknown
 */
export const settle = async (
  client: ClientBase,
  id: IdempotencyKey,
  { waitMs, backend }: Unsettled,
): Promise<Claim> => {
  // Only if it still has the key: by now the number may be of a session that has nothing to do with this.
  await client.query(
    `SELECT pg_terminate_backend(l.pid)
       FROM pg_locks l, LATERAL (SELECT coregent.idempotency_lock($1, $2) AS lock) AS k
      WHERE l.pid = $3 AND l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
        AND l.classid::bigint = (k.lock >> 32) & 4294967295 AND l.objid::bigint = k.lock & 4294967295
        AND EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = l.pid AND a.state LIKE 'idle in transaction%')`,
    [id.scope, id.key, backend],
  );
  await client.query("BEGIN");
  try {
    await client.query("SELECT set_config('lock_timeout', $1, true)", [
      `${Math.max(1, Math.trunc(waitMs))}ms`,
    ]);
    // The lost session gives the key up when its transaction has ended, one way or the other.
    await client.query("SELECT pg_advisory_xact_lock(coregent.idempotency_lock($1, $2))", [id.scope, id.key]);
    return await find(client, id, true);
  } catch (error) {
    if (sqlStateOf(error) === lockTimeout) return { kind: "in-flight" };
    throw error;
  } finally {
    await client.query("ROLLBACK").catch(() => undefined);
  }
};

const lockTimeout = "55P03";

/**
 * Deletes expired records that these regions have made, at most `limit`; gives how many. Each region does so for itself, so
 * that a record is deleted once; those of regions which have left the configuration are anybody's.
 */
export const deleteExpired = async (
  database: Database,
  { members, limit }: { readonly members: ReadonlySet<number>; readonly limit: number },
): Promise<number> => {
  const { rowCount } = await database.query({
    name: "coregent idempotency expire",
    text: `DELETE FROM coregent.idempotency AS d
            USING (SELECT scope, key FROM coregent.idempotency
                    WHERE expires_at <= clock_timestamp()
                      AND (region = coregent.region_id() OR region <> ALL ($1::int[]))
                    ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED) AS e
            WHERE d.scope = e.scope AND d.key = e.key`,
    values: [[...members], limit],
  });
  return rowCount ?? 0;
};
