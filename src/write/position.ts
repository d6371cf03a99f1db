import type { ClientBase, QueryConfig, QueryResult, QueryResultRow } from "pg";
import { type PreparedResult, type PreparedStatement, queryPrepared } from "./prepared-query.ts";
import { mergeSessions, type OriginPosition, type SessionToken } from "./session-token.ts";

/** A session or a pool of sessions with a master. */
export interface Database {
  query<R extends QueryResultRow>(config: QueryConfig): Promise<QueryResult<R>>;
  /** For less, where a session for it is there. */
  queryPrepared?(statement: PreparedStatement): Promise<PreparedResult> | null;
}

export interface Held {
  readonly incarnation: string;
  readonly lsn: bigint;
}

/** What a master has: everything that each region had written before a position of that region's WAL. */
export interface Position {
  /** Region id. */
  readonly region: number;
  /** Before this lies all that the region itself has written and shows. It may lie beyond what is flushed. */
  readonly own: Held;
  /** Before this lies all that the session which asked has committed; flushed, unless its commits do not wait for that. */
  readonly committed: bigint;
  /** What is merged of each other region. One whose states are being copied is missing: that may be any part of them. */
  readonly merged: ReadonlyMap<number, Held>;
  /** Tables, as `schema.table`, of which nothing is merged from a region, since they do not fit here. */
  readonly misfits: ReadonlyMap<number, ReadonlySet<string>>;
}

/**
 * Scalar SQL: the position as JSON, of the statement's snapshot: progress is written by the transactions that merge.
 * The WAL's positions are read later than the snapshot is taken, so they lie behind all that it shows; what is flushed
 * before what is written, so that it is never more.
 * A region is left out while a copy is due: its progress was set to where the stream will begin.
 */
export const positionExpression = `(SELECT json_build_object(
    'region', l.region_id, 'incarnation', l.incarnation,
    'committed', ((CASE WHEN current_setting('synchronous_commit') = 'off' THEN pg_current_wal_insert_lsn()
                        ELSE pg_current_wal_flush_lsn() END) - '0/0')::text,
    'written', (pg_current_wal_insert_lsn() - '0/0')::text,
    'merged', (SELECT coalesce(json_agg(json_build_array(p.origin, p.incarnation, (p.lsn - '0/0')::text)), '[]')
                 FROM coregent.progress p
                WHERE NOT EXISTS (SELECT FROM coregent.table_sync s WHERE s.origin = p.origin AND s.misfit IS NULL)),
    'misfits', (SELECT coalesce(json_agg(json_build_array(s.origin, s.table_name)), '[]')
                  FROM coregent.table_sync s WHERE s.misfit IS NOT NULL))
  FROM coregent.local l)`;

interface PositionJson {
  readonly region: number;
  readonly incarnation: string;
  readonly written: string;
  readonly committed: string;
  readonly merged: readonly (readonly [number, string, string])[];
  readonly misfits: readonly (readonly [number, string])[];
}

/** The value of `positionExpression`, parsed as JSON. */
export const parsePosition = (value: unknown): Position => {
  const json = value as PositionJson;
  const misfits = new Map<number, Set<string>>();
  for (const [origin, table] of json.misfits) {
    misfits.set(origin, (misfits.get(origin) ?? new Set()).add(table));
  }
  return {
    region: json.region,
    own: { incarnation: json.incarnation, lsn: BigInt(json.written) },
    committed: BigInt(json.committed),
    merged: new Map(
      json.merged.map(([origin, incarnation, lsn]) => [origin, { incarnation, lsn: BigInt(lsn) }]),
    ),
    misfits,
  };
};

const statement = { name: "coregent position", text: `SELECT ${positionExpression} AS position` };

/** @throws what the driver throws */
export const readPosition = async (database: Database): Promise<Position> => {
  const prepared = database.queryPrepared?.(statement) ?? null;
  if (prepared !== null) return positionIn(await prepared);
  const { rows } = await database.query<{ position: unknown }>(statement);
  return parsePosition(rows[0]?.position);
};

/** The same by a session of a request. @throws what the driver throws */
export const readPositionBy = async (client: ClientBase): Promise<Position> =>
  positionIn(await queryPrepared(client, statement));

const positionIn = ({ rows }: PreparedResult): Position => parsePosition(JSON.parse(rows[0]?.[0] ?? "null"));

/**
 * Between two positions of a region's WAL lies nothing that the other regions merge. This stays so for ever, whoever
 * knows it and whatever happens to him.
 */
export interface QuietSpan {
  readonly incarnation: string;
  readonly from: bigint;
  readonly to: bigint;
}

/** With what is known of quiet regions: whoever has come to such a span, or into it, has come to its end. */
export const pastQuiet = (position: Position, quietOf: (origin: number) => QuietSpan | null): Position => {
  const merged = [...position.merged].map(([origin, held]): [number, Held] => {
    const quiet = quietOf(origin);
    const applies =
      quiet !== null &&
      quiet.incarnation === held.incarnation &&
      quiet.from <= held.lsn &&
      held.lsn < quiet.to;
    return [origin, applies ? { ...held, lsn: quiet.to } : held];
  });
  return { ...position, merged: new Map(merged) };
};

/** What a token is judged with besides a position. */
export interface Knowledge {
  /** Ids of the regions in the configuration. */
  readonly members: ReadonlySet<number>;
  /** What each region's own master has said of its incarnation when it was last asked. */
  readonly incarnations: ReadonlyMap<number, string>;
  /** `databaseName` of each database that is no more: its region's master was asked, and is another one. */
  readonly superseded: ReadonlySet<string>;
}

/** Names one of the databases that a region has had. */
export const databaseName = (origin: number, incarnation: string): string => `${origin} ${incarnation}`;

const heldOf = (position: Position, origin: number): Held | undefined =>
  origin === position.region ? position.own : position.merged.get(origin);

/**
 * Nothing more can come of a database that is no more: where a region has gone over to the one that took its place, the
 * positions of the old one are as good as reached. The same goes for a region that has left the configuration.
 */
const isPast = (seen: OriginPosition, position: Position, knowledge: Knowledge): boolean => {
  const { members, incarnations, superseded } = knowledge;
  if (!members.has(seen.origin)) return true;
  if (seen.origin === position.region) return seen.incarnation !== position.own.incarnation;
  if (!superseded.has(databaseName(seen.origin, seen.incarnation))) return false;
  const held = heldOf(position, seen.origin);
  return held !== undefined && held.incarnation === incarnations.get(seen.origin);
};

/**
 * What a token has seen and this position has not, or not for `tables` (as `schema.table`) that are to be read.
 * Empty: whoever reads here sees everything that the token's bearer has seen, or what came of it.
 */
export const lacking = (
  position: Position,
  token: SessionToken,
  { tables = [], ...knowledge }: Knowledge & { readonly tables?: readonly string[] },
): OriginPosition[] =>
  token.positions.filter((seen) => {
    if (isPast(seen, position, knowledge)) return false;
    const held = heldOf(position, seen.origin);
    if (held === undefined || held.incarnation !== seen.incarnation || held.lsn < seen.lsn) return true;
    const misfits = position.misfits.get(seen.origin);
    return misfits !== undefined && tables.some((table) => misfits.has(table));
  });

export const covers = (
  position: Position,
  token: SessionToken,
  knowledge: Knowledge & { readonly tables?: readonly string[] },
): boolean => lacking(position, token, knowledge).length === 0;

export interface Answered {
  /** What the request brought. */
  readonly session: SessionToken | null;
  /** Read at the master that answered, with or after what it answered. */
  readonly position: Position;
  /** `write`: the position was read by the session that committed, after it had. */
  readonly kind: "read" | "write";
  /** The highest version in the answer, 0n for none. */
  readonly version: bigint;
}

/** The token of an answer: what the request's had, and all that the master had when it answered. */
export const sessionAfter = (
  { session, position, kind, version }: Answered,
  knowledge: Knowledge,
): SessionToken => {
  const own = kind === "write" ? position.committed : position.own.lsn;
  const positions = [
    { origin: position.region, incarnation: position.own.incarnation, lsn: own },
    ...[...position.merged].map(([origin, held]) => ({ origin, ...held })),
  ].filter(({ origin }) => knowledge.members.has(origin));
  const before = (session?.positions ?? []).filter((seen) => !isPast(seen, position, knowledge));
  return mergeSessions({ positions: before, version: session?.version ?? 0n }, { positions, version });
};
