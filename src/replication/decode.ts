import type { Buffer } from "node:buffer";
import type { ReplicatedTable } from "../postgres/table.ts";
import { CommitPoint } from "./commit-point.ts";
import type { Layout } from "./layout.ts";
import { RelationMapper, type Domains, type Mapping, type Misfit, type SourceColumn } from "./relation.ts";
import { nullLength, unchangedLength, type StateBuffer, type Tuple } from "./state-buffer.ts";
import type { StateFormat } from "./states.ts";

/** Where decoded changes go. */
export interface ChangeSink {
  begin(): void;
  /** The buffer for states of this layout, within the transaction that has begun. */
  buffer(layout: Layout): StateBuffer;
  /** A state was appended to the buffer of this layout. */
  appended(bytes: number): void;
  /** A change of a table which does not fit was left out. */
  skip(table: string, reason: string): void;
  /** `point` is another's after the call. */
  commit(point: CommitPoint): void;
}

export interface DecoderOptions {
  readonly tables: readonly ReplicatedTable[];
  readonly domains: Domains;
  readonly format: StateFormat;
  /** Changes whose version names another region are left out: that region sends them itself. Null: all are taken. */
  readonly sourceRegion: number | null;
  /**
   * A transaction is being streamed, of whose end nothing is known yet: what follows `sink.begin` must not be merged
   * before it is known to have committed. `xid`: of the source, 32 bits.
   */
  readonly streamed?: (xid: number) => void;
}

/** The stream is not what pgoutput sends, or holds what the link did not ask for. A new stream may set it right. */
export class DecodeError extends Error {
  readonly reaction: "retry" | "stop";
  constructor(message: string, reaction: "retry" | "stop" = "stop") {
    super(message);
    this.reaction = reaction;
  }
}

/** Values of the relation's type which have no binary form came as text: the link has to ask for text altogether. */
export class NoBinaryFormat extends DecodeError {
  readonly table: string;
  constructor(table: string) {
    super(`${table} has a column whose type has no binary format`, "retry");
    this.table = table;
  }
}

/**
 * A transaction that was streamed before its commit was not to be: it is open at the source, or a part of it was rolled
 * back. A stream of whole transactions has none of this.
 */
export class StreamedTooSoon extends Error {
  readonly reaction = "retry";
}

const regionMask = 0x3ff;
const code = (letter: string): number => letter.codePointAt(0)!;
const messages = {
  begin: code("B"),
  commit: code("C"),
  relation: code("R"),
  type: code("Y"),
  insert: code("I"),
  update: code("U"),
  delete: code("D"),
  truncate: code("T"),
  origin: code("O"),
  message: code("M"),
  streamStart: code("S"),
  streamStop: code("E"),
  streamCommit: code("c"),
  streamAbort: code("A"),
} as const;
/** As long as streamed transactions overlap, nothing of them can be committed: more than so many are not merged as one. */
const maxJoined = 16;
/** In a block of a streamed transaction each message bears the id of the (sub)transaction. */
const xidBytes = 4;
const asNull = code("n");
const asUnchanged = code("u");
const asText = code("t");
const asBinary = code("b");
const newTuple = code("N");
const oldKey = code("K");
const oldTuple = code("O");

class MutableTuple implements Tuple {
  offsets = new Int32Array(64);
  lengths = new Int32Array(64);
  count = 0;
  bytes = 0;

  reserve(columns: number): void {
    if (columns > this.offsets.length) {
      this.offsets = new Int32Array(columns);
      this.lengths = new Int32Array(columns);
    }
    this.count = columns;
  }
}

/**
 * Decodes pgoutput's messages, protocol versions 1 and 2. A message is only read during `decode`: the driver overwrites its
 * memory later. Values are copied once, from the message into the sink's buffer.
 *
 * Deletes and truncates are left out: they carry no version, and the tombstones say the same with theirs.
 *
 * Streamed transactions and whatever commits between their blocks are one transaction to the sink: their rows go to the
 * target as they come, and nothing of it can be committed there before all of it can.
 *
 * @throws DecodeError; the stream cannot go on after that
 */
export class Decoder {
  readonly #sink: ChangeSink;
  readonly #mapper: RelationMapper;
  readonly #format: StateFormat;
  readonly #valueKind: number;
  readonly #sourceRegion: number | null;
  readonly #types = new Map<number, string>();
  readonly #relations = new Map<number, Mapping | Misfit>();
  readonly #new = new MutableTuple();
  readonly #old = new MutableTuple();
  readonly #onStreamed: (xid: number) => void;
  /** Transactions of which blocks have come, and no end. */
  readonly #streamed = new Set<number>();
  /** Streamed transactions that the sink has as one so far. */
  #joined = 0;
  /** 0, or within a block {@link xidBytes}. */
  #xid = 0;
  readonly #point = new CommitPoint();
  /** Where the message ends that is being read. */
  #end = 0;

  constructor(sink: ChangeSink, options: DecoderOptions) {
    this.#sink = sink;
    this.#mapper = new RelationMapper(options.tables, options);
    this.#format = options.format;
    this.#valueKind = options.format === "binary" ? asBinary : asText;
    this.#sourceRegion = options.sourceRegion;
    this.#onStreamed =
      options.streamed ??
      (() => {
        throw new DecodeError("a transaction is streamed, which was not asked for");
      });
  }

  /** A message, from byte `start` to `end`. */
  decode(message: Buffer, start = 0, end = message.length): void {
    this.#end = end;
    switch (message.readUInt8(start)) {
      case messages.insert:
      case messages.update:
        return this.#change(message, start + 1 + this.#xid);
      case messages.begin:
        this.#point.readTime(message, start + 9);
        return this.#begin();
      case messages.commit:
        // flags, the commit record's LSN, its end, its time
        this.#point.readEnd(message, start + 10);
        return this.#commit();
      case messages.relation:
        return this.#relation(message, start + 1 + this.#xid);
      case messages.type:
        return this.#type(message, start + 1 + this.#xid);
      case messages.streamStart:
      case messages.streamStop:
      case messages.streamCommit:
      case messages.streamAbort:
        return this.#block(message, start);
      case messages.delete:
      case messages.truncate:
      case messages.origin:
      case messages.message:
        return;
      default:
        throw new DecodeError(`unknown message ${message.readUInt8(start)} in the stream`);
    }
  }

  #block(message: Buffer, start: number): void {
    const kind = message[start];
    this.#xid = kind === messages.streamStart ? xidBytes : 0;
    if (kind === messages.streamStop) return;
    const xid = message.readUInt32BE(start + 1);
    if (kind === messages.streamAbort) {
      throw new StreamedTooSoon("a part of a streamed transaction was rolled back");
    }
    if (kind === messages.streamCommit) {
      this.#streamed.delete(xid);
      // xid, flags, the commit record's LSN, its end, its time
      this.#point.readEnd(message, start + 14);
      this.#point.readTime(message, start + 22);
      return this.#commit();
    }
    if (this.#streamed.has(xid)) return;
    if (this.#streamed.size === 0) this.#joined = 0;
    this.#joined += 1;
    if (this.#joined > maxJoined) throw new StreamedTooSoon("streamed transactions overlap without an end");
    this.#begin();
    this.#streamed.add(xid);
    this.#onStreamed(xid);
  }

  #begin(): void {
    if (this.#streamed.size === 0) this.#sink.begin();
  }

  #commit(): void {
    if (this.#streamed.size === 0) this.#sink.commit(this.#point);
  }

  #type(message: Buffer, start: number): void {
    const schema = readName(message, start + 4);
    const name = readName(message, schema.end);
    this.#types.set(message.readUInt32BE(start), `${schema.text || "pg_catalog"}.${name.text}`);
  }

  #relation(message: Buffer, start: number): void {
    const schema = readName(message, start + 4);
    const name = readName(message, schema.end);
    const columns: SourceColumn[] = [];
    const count = message.readInt16BE(name.end + 1);
    let at = name.end + 3;
    for (let i = 0; i < count; i++) {
      const column = readName(message, at + 1);
      columns.push({
        name: column.text,
        typeOid: message.readUInt32BE(column.end),
        identity: (message[at]! & 1) === 1,
      });
      at = column.end + 8;
    }
    const relation = {
      schema: schema.text || "pg_catalog",
      name: name.text,
      replicaIdentity: String.fromCodePoint(message[name.end]!),
      columns,
    };
    this.#relations.set(message.readUInt32BE(start), this.#mapper.map(relation, this.#types));
  }

  /** Insert: OID, N, tuple. Update: OID, then maybe K or O with the old tuple, N, tuple. */
  #change(message: Buffer, start: number): void {
    const mapping = this.#relations.get(message.readUInt32BE(start));
    if (mapping === undefined) {
      throw new DecodeError(`a change of a relation that was not described: ${message.readUInt32BE(start)}`);
    }
    if (!mapping.fits) {
      return this.#sink.skip(mapping.table, mapping.reason);
    }
    let at = start + 4;
    const kind = message[at]!;
    const hasOld = kind === oldKey || kind === oldTuple;
    if (hasOld) {
      at = this.#tuple(message, at + 1, this.#old, mapping);
    }
    if (message[at] !== newTuple) {
      throw new DecodeError(`no new tuple in a change of ${mapping.layout.table.name}`);
    }
    this.#tuple(message, at + 1, this.#new, mapping);
    if (!this.#isOfSource(message, mapping)) {
      return;
    }
    if (hasOld) {
      this.#takeFromOld(kind, mapping);
    }
    this.#new.bytes = this.#end - start;
    const buffer = this.#sink.buffer(mapping.layout);
    const before = buffer.end;
    buffer.append(message, this.#new, mapping.positions, this.#shape(mapping));
    this.#sink.appended(buffer.end - before);
  }

  /** Notes where the values lie; gives the offset behind the tuple. */
  #tuple(message: Buffer, start: number, into: MutableTuple, mapping: Mapping): number {
    const count = message.readInt16BE(start);
    if (count !== mapping.targets.length) {
      throw new DecodeError(
        `${mapping.layout.table.name}: ${count} values for ${mapping.targets.length} columns`,
      );
    }
    into.reserve(count);
    const { offsets, lengths } = into;
    let at = start + 2;
    for (let i = 0; i < count; i++) {
      const kind = message[at]!;
      if (kind === this.#valueKind) {
        const length = message.readInt32BE(at + 1);
        offsets[i] = at + 5;
        lengths[i] = length;
        at += 5 + length;
      } else if (kind === asNull || kind === asUnchanged) {
        lengths[i] = kind === asNull ? nullLength : unchangedLength;
        at += 1;
      } else if (kind === asText && this.#format === "binary") {
        throw new NoBinaryFormat(mapping.layout.table.name);
      } else {
        throw new DecodeError(`${mapping.layout.table.name}: unknown kind of value ${kind}`);
      }
    }
    if (at > this.#end) {
      throw new DecodeError(`${mapping.layout.table.name}: a tuple longer than its message`);
    }
    return at;
  }

  #isOfSource(message: Buffer, { version, layout }: Mapping): boolean {
    if (this.#sourceRegion === null) {
      return true;
    }
    const length = this.#new.lengths[version]!;
    if (length <= 0) {
      throw new DecodeError(`${layout.table.name}: a change without a version`);
    }
    const at = this.#new.offsets[version]!;
    // The region is in the lowest ten bits.
    const low =
      this.#format === "binary"
        ? message.readUInt16BE(at + length - 2)
        : Number(BigInt(message.toString("latin1", at, at + length)) & 0xffffn);
    return (low & regionMask) === this.#sourceRegion;
  }

  /** REPLICA IDENTITY FULL logs old tuples whole, and a long key that did not change is in the old key. */
  #takeFromOld(kind: number, { identity }: Mapping): void {
    const { offsets, lengths } = this.#new;
    for (const i of identity) {
      const usable = kind === oldTuple || this.#old.lengths[i]! >= 0;
      if (lengths[i] === unchangedLength && usable && this.#old.lengths[i] !== unchangedLength) {
        offsets[i] = this.#old.offsets[i]!;
        lengths[i] = this.#old.lengths[i]!;
      }
    }
  }

  #shape(mapping: Mapping): Mapping["whole"] {
    const { lengths, count } = this.#new;
    let unchanged: number[] | null = null;
    for (let i = 0; i < count; i++) {
      if (lengths[i] === unchangedLength) {
        unchanged ??= [];
        unchanged.push(mapping.targets[i]!);
      }
    }
    return unchanged === null ? mapping.whole : mapping.shape(unchanged.sort((a, b) => a - b));
  }
}

const readName = (message: Buffer, start: number): { readonly text: string; readonly end: number } => {
  const end = message.indexOf(0, start);
  if (end < 0) {
    throw new DecodeError("a name without an end in the stream");
  }
  return { text: message.toString("utf8", start, end), end: end + 1 };
};
