import type { Buffer } from "node:buffer";
import { Query, type Client } from "pg";
import type { Logger } from "pino";
import { connect } from "../postgres/client.ts";
import { takeCopyData } from "../postgres/copy-data.ts";
import { literal } from "../postgres/identifiers.ts";
import { slotCopyName } from "../postgres/install/names.ts";
import { sqlStateOf } from "../postgres/sqlstate.ts";
import type { Start } from "./link-stream.ts";
import { formatLsn, parseLsn, readLsn } from "./lsn.ts";
import { decodingMemorySql, pgoutputOptions, type PgoutputOptions } from "./pgoutput.ts";
import { evictHolder } from "./slot.ts";
import { SourceGone } from "./source-session.ts";
import { copyHeaderBytes, copySignature, copyTrailer } from "./state-builder.ts";
import type { AgentContext, RegionAddress } from "./wiring.ts";

export interface BacklogOptions extends PgoutputOptions {
  readonly context: AgentContext;
  readonly peer: RegionAddress;
  /** An ordinary session with the peer. */
  readonly client: Client;
  readonly logger: Logger;
  /** This link's slot. Nobody reads from it meanwhile. */
  readonly slot: string;
}

/** Where the stream is to begin, and how many bytes of WAL the peer was ahead of that just before. */
export interface BacklogRead {
  readonly from: bigint;
  readonly ahead: bigint;
}

export interface BacklogSink {
  /** There is a backlog, and it is being read. `end`: where it ended when this began. */
  readonly begun: (end: bigint) => void;
  /** One message, from byte `start` to `end`; only valid during the call. */
  readonly decode: (bytes: Buffer, start: number, end: number) => void;
}

interface Pieces extends BacklogRead {
  readonly decode: BacklogSink["decode"];
  readonly signal: AbortSignal;
}

/** One column of a binary tuple: its number of columns, and the value's length, lie before it. */
const messageStart = 6;

/** Once begun, reading by SQL goes on until only this part of what makes it begin is left, */
const nearShare = 16n;

/** Bytes of the peer's WAL, of one piece: what lies ahead after it and before it, and how much it was. */
export interface PieceRead {
  readonly left: bigint;
  readonly leftBefore: bigint;
  readonly read: bigint;
  /** All that was written before this began has been read. */
  readonly past: boolean;
}

/**
 * or until the peer writes what is left, half as fast as it is read: it might go on for ever,
 * and until there is a stream nothing is confirmed.
 */
export const worthGoingOn = ({ left, leftBefore, read, past }: PieceRead, backlogBytes: bigint): boolean => {
  if (left < backlogBytes / nearShare) return false;
  return !past || leftBefore - left >= read / 2n;
};

/** It ends with the transaction that brings it to so many messages, or when so much WAL is read. */
export interface PieceSize {
  readonly changes: number;
  readonly bytes: number;
}

/** The first piece is small, so that there is something to merge while the next is decoded. */
const firstPiece: PieceSize = { changes: 4_000, bytes: 1024 * 1024 };

/** What a piece may be made larger by, and about how much the source may keep of one that was. */
const mostTimes = 8;
const mostKeptBytes = 128 * 1024 * 1024;

export interface ReadingAgain {
  /** Bytes of WAL from where the source would begin again to the end of the last piece that was read. */
  readonly again: number;
  /** Mean size of a message. */
  readonly messageBytes: number;
}

/**
 * What was written since the last restart point (restart-points.ts) is read again by the source before a piece, though nothing
 * is made of it. Where that is much, the piece has more messages: half as much is new. The source keeps a piece until all of it
 * is decoded.
 */
export const forReadingAgain = (
  { changes, bytes }: PieceSize,
  { again, messageBytes }: ReadingAgain,
): PieceSize => {
  const most = Math.min(mostTimes, mostKeptBytes / (changes * messageBytes));
  return {
    changes: Math.round(changes * Math.max(1, Math.min(most, again / 2 / bytes))),
    // Not bounded: below a transaction that is open for long the restart point stands still, and only what grows with it is in proportion.
    bytes: Math.max(bytes, again),
  };
};

const atMost = (size: PieceSize, most: PieceSize): PieceSize => ({
  changes: Math.min(size.changes, most.changes),
  bytes: Math.min(size.bytes, most.bytes),
});

/** The source keeps a piece until all of it is decoded: in memory, if it may. */
const pieceMemorySql = `SELECT set_config('work_mem', greatest(setting::bigint, 32768)::text, false)
  FROM pg_settings WHERE name = 'work_mem'`;

/**
 * Reads what a peer has written while the link was away, where that is much. A walsender makes a system call for every
 * message; the same by SQL costs the peer less than half. It decodes a copy of the slot that lasts as long as the session,
 * and that forgets each piece as soon as it has been read: the slot itself stays at what is durable here.
 */
export class Backlog {
  readonly #options: BacklogOptions;
  /** The name of the slot's copy. */
  readonly #copy: string;
  #gate: PromiseWithResolvers<void> | null = null;

  constructor(options: BacklogOptions) {
    this.#options = options;
    this.#copy = slotCopyName(options.slot);
  }

  pause(): void {
    this.#gate ??= Promise.withResolvers();
  }

  resume(): void {
    this.#gate?.resolve();
    this.#gate = null;
  }

  hurry(): void {
    this.resume();
  }

  /**
   * Gives each message of the backlog to `decode`; where the stream is to begin. At once where the peer is not far ahead,
   * or does not let the slot be copied.
   * @throws what made it fail in between
   */
  async read(start: Start, { begun, decode }: BacklogSink, signal: AbortSignal): Promise<BacklogRead> {
    const { context, client, logger } = this.#options;
    const { backlogBytes, backlogTransactionBytes } = context.limits;
    const ahead = (await positionOf(client)) - start.from;
    if (ahead < backlogBytes || ahead > (await this.#transactions()) * BigInt(backlogTransactionBytes)) {
      return { from: start.from, ahead };
    }
    await using session = await this.#connect(signal);
    const cut = (): void => {
      session.client.connection.stream.destroy();
      this.resume();
    };
    signal.addEventListener("abort", cut, { once: true });
    try {
      signal.throwIfAborted();
      if (!(await this.#copySlot(session.client, start))) {
        return { from: start.from, ahead };
      }
      logger.info({ bytes: Number(ahead) }, "catching up");
      begun(start.from + ahead);
      return await this.#pieces(session.client, { from: start.from, ahead, decode, signal });
    } finally {
      signal.removeEventListener("abort", cut);
    }
  }

  /** About how many transactions the peer's server has begun since the slot's position. */
  async #transactions(): Promise<bigint> {
    const { client, slot } = this.#options;
    const { rows } = await client.query<{ begun: string | null }>(
      "SELECT age(catalog_xmin)::text AS begun FROM pg_catalog.pg_replication_slots WHERE slot_name = $1",
      [slot],
    );
    return BigInt(rows[0]?.begun ?? 0);
  }

  async #connect(signal: AbortSignal): Promise<AsyncDisposable & { readonly client: Client }> {
    const { context, peer } = this.#options;
    const opened = await connect(peer.url, {
      applicationName: `coregent backlog ${peer.name} > ${context.region.name}`,
      connectTimeoutMs: context.limits.connectTimeoutMs,
      line: peer.line,
      pipeline: true,
      copiesOut: true,
      signal,
    });
    return { client: opened, [Symbol.asyncDispose]: () => opened.end().catch(() => undefined) };
  }

  /** False where the peer has no slot to spare. */
  async #copySlot(session: Client, start: Start): Promise<boolean> {
    const { context, client, slot, logger } = this.#options;
    await session.query(decodingMemorySql);
    await session.query(pieceMemorySql);
    try {
      // A former session of ours, whose line was cut, notices only when its piece is decoded; until then it holds the copy.
      await evictHolder(client, this.#copy, context.clock, "client backend");
      await session.query("SELECT pg_copy_logical_replication_slot($1, $2, true)", [slot, this.#copy]);
    } catch (error) {
      if (sqlStateOf(error) === null) {
        throw error;
      }
      logger.info({ err: error }, "the backlog is streamed, as the peer does not let its slot be copied");
      return false;
    }
    if (start.from > start.confirmed) {
      await session.query("SELECT pg_replication_slot_advance($1, $2)", [this.#copy, formatLsn(start.from)]);
    }
    return true;
  }

  /**
   * The next piece is asked for before one has come, so that the peer decodes while we read: what lies ahead is judged of the
   * one before. The copy of the slot has forgotten a piece before it is sent: where one fails, nothing that follows is taken, and
   * the link begins anew at what is merged, with another copy.
   */
  async #pieces(session: Client, { from, ahead, decode, signal }: Pieces): Promise<BacklogRead> {
    const { context, logger } = this.#options;
    const { backlogBytes, backlogPieceChanges, backlogPieceBytes } = context.limits;
    const largest = { changes: backlogPieceChanges, bytes: backlogPieceBytes };
    const reader = new PieceReader(session, {
      slot: this.#copy,
      decode,
      paused: () => this.#gate?.promise ?? null,
    });
    let size = atMost(firstPiece, largest);
    let upTo = from + BigInt(size.bytes);
    let piece = reader.read(this.#pieceSql(size.changes, upTo));
    const backlogEnd = from + ahead;
    let pieces = 0;
    for (let [end, restart, left, goesOn] = [from, from, ahead, true]; ;) {
      size = atMost({ changes: size.changes * 2, bytes: size.bytes * 2 }, largest);
      const { messageBytes } = reader;
      const { changes, bytes } = forReadingAgain(size, { again: Number(end - restart), messageBytes });
      upTo = (end > upTo ? end : upTo) + BigInt(bytes);
      const next = goesOn ? reader.read(this.#pieceSql(changes, upTo)) : null;
      next?.catch(() => undefined);
      const read = await piece;
      const leftBefore = left;
      left = read.position - read.end;
      const past = read.end >= backlogEnd;
      goesOn = worthGoingOn({ left, leftBefore, read: read.end - end, past }, BigInt(backlogBytes));
      ({ end, restart } = read);
      pieces += 1;
      if (next === null) {
        logger.info(
          { pieces, end: formatLsn(end), left: Number(left) },
          "the backlog is read, what is left is streamed",
        );
        return { from: end, ahead: left };
      }
      signal.throwIfAborted();
      piece = next;
    }
  }

  #pieceSql(changes: number, upTo: bigint): string {
    const options = Object.entries(pgoutputOptions(this.#options)).flat().map(literal).join(", ");
    return `COPY (SELECT data FROM pg_catalog.pg_logical_slot_get_binary_changes(${literal(this.#copy)},
              ${literal(formatLsn(upTo))}, ${changes}, ${options})) TO STDOUT (FORMAT binary)`;
  }
}

interface PieceEnd {
  /** Where the next piece begins. */
  readonly end: bigint;
  /** From here the source will read again for it, without sending anything. */
  readonly restart: bigint;
  /** How far the peer had flushed its WAL when it had sent the piece. */
  readonly position: bigint;
}

interface PieceReaderOptions {
  /** The copy. */
  readonly slot: string;
  readonly decode: BacklogSink["decode"];
  /** Resolves when more may be read; null: at once. */
  readonly paused: () => Promise<void> | null;
}

/** Reads pieces that were asked for one after the other, whose answers come in that order. */
class PieceReader {
  readonly #session: Client;
  readonly #options: PieceReaderOptions;
  #failure: Error | null = null;
  #messages = 0;
  #bytes = 0;

  constructor(session: Client, options: PieceReaderOptions) {
    this.#session = session;
    this.#options = options;
    const { connection } = session;
    takeCopyData(connection, (bytes, start, end) => this.#take(bytes, start, end));
    connection.stream.on("data", () => this.#rest());
  }

  /** Mean size of what has come. */
  get messageBytes(): number {
    return this.#bytes / Math.max(1, this.#messages);
  }

  /** @throws what was wrong with a message, or SourceGone */
  async read(sql: string): Promise<PieceEnd> {
    const copied = Promise.withResolvers<void>();
    const done = (error?: Error | null): void => {
      // At once: what follows comes before anybody who waits has heard of it.
      if (error) this.#fail(sqlStateOf(error) === null ? new SourceGone() : error);
      copied.resolve();
    };
    this.#session.query(new Query(sql, done));
    // Neither is left without somebody who hears of its failure.
    const [, end] = await Promise.allSettled([
      copied.promise,
      readThrough(this.#session, this.#options.slot),
    ]);
    if (this.#failure !== null) throw this.#failure;
    if (end.status === "rejected") throw new SourceGone();
    return end.value;
  }

  #fail(error: unknown): void {
    this.#failure ??= error instanceof Error ? error : new Error(String(error));
  }

  /** What the server sends of a COPY is a message for each row, the header before the first and the trailer by itself. */
  #take(bytes: Buffer, start: number, end: number): void {
    if (this.#failure !== null) return;
    this.#messages += 1;
    this.#bytes += end - start;
    try {
      const tuple = bytes[start] === copySignature[0] ? start + copyHeaderBytes : start;
      if (bytes.readInt16BE(tuple) !== copyTrailer) this.#options.decode(bytes, tuple + messageStart, end);
    } catch (error) {
      this.#fail(error);
      this.#session.connection.stream.destroy();
    }
  }

  /** After each read others are heard first: Node reads a socket that is never empty 32 times in a row. */
  #rest(): void {
    const { stream } = this.#session.connection;
    stream.pause();
    setImmediate(() => {
      void (this.#options.paused() ?? Promise.resolve()).then(() => stream.resume());
    });
  }
}

const readThrough = async (client: Client, slot: string): Promise<PieceEnd> => {
  const { rows } = await client.query<{ end: string; restart: string; position: string }>(
    `SELECT confirmed_flush_lsn::text AS end, restart_lsn::text AS restart, pg_current_wal_flush_lsn()::text AS position
       FROM pg_catalog.pg_replication_slots WHERE slot_name = $1`,
    [slot],
  );
  const [row] = rows;
  if (row === undefined) throw new SourceGone();
  return { end: parseLsn(row.end), restart: parseLsn(row.restart), position: parseLsn(row.position) };
};

/** How far the peer has flushed its WAL. */
const positionOf = (client: Client): Promise<bigint> =>
  readLsn(client, "SELECT pg_current_wal_flush_lsn()::text AS lsn");
