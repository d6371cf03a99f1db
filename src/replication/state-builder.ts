import { Buffer } from "node:buffer";
import type { ReplicatedTable } from "../postgres/table.ts";
import type { TableBatch } from "./batch.ts";
import { collapse } from "./collapse.ts";
import { layoutOf, shapeOf, type Layout, type Shape } from "./layout.ts";
import { nullLength, StateBuffer, stateOverheadBytes } from "./state-buffer.ts";
import type { StateFormat, StateKind } from "./states.ts";

export interface StateBuilderOptions {
  readonly kind: StateKind;
  readonly format: StateFormat;
  /**
   * Names of the columns in the order of the values to come. Columns of the relation that are not among them are not
   * carried by the states; the key's and the `cg_` columns must be.
   */
  readonly columns: readonly string[];
}

/** Makes states of one relation out of rows that were selected: in a copy of states, or when fetched by key. */
export class StateBuilder {
  readonly #layout: Layout;
  readonly #shape: Shape;
  readonly #positions: Int32Array;
  readonly #offsets: Int32Array;
  readonly #lengths: Int32Array;
  #states: StateBuffer;

  constructor(table: ReplicatedTable, { kind, format, columns }: StateBuilderOptions) {
    this.#layout = layoutOf(table, kind, format);
    const position = new Map(columns.map((name, i) => [name, i]));
    this.#positions = Int32Array.from(this.#layout.columns, ({ name }) => position.get(name) ?? -1);
    const absent = [...this.#layout.columns.keys()].filter(
      (i) => this.#positions[i] === -1 && !this.#layout.columns[i]!.generated,
    );
    this.#shape = shapeOf(this.#layout, absent, []);
    this.#offsets = new Int32Array(columns.length);
    this.#lengths = new Int32Array(columns.length);
    this.#states = new StateBuffer(this.#layout);
  }

  get count(): number {
    return this.#states.count;
  }

  get bytes(): number {
    return this.#states.end + this.count * stateOverheadBytes;
  }

  /** A tuple of COPY BINARY from its field count on: for each field int32 length or -1, bytes. */
  addCopied(tuple: Buffer): void {
    const count = tuple.readInt16BE(0);
    this.#expect(count);
    let at = 2;
    for (let i = 0; i < count; i++) {
      const length = tuple.readInt32BE(at);
      this.#offsets[i] = at + 4;
      this.#lengths[i] = length;
      at += 4 + Math.max(0, length);
    }
    this.#append(tuple);
  }

  /** Values as their types' output functions write them. The format must be `text`. */
  addText(values: readonly (string | null)[]): void {
    this.#expect(values.length);
    if (this.#layout.format !== "text") {
      throw new Error("text in a set of binary states");
    }
    const fields = values.map((value) => (value === null ? null : Buffer.from(value)));
    let at = 0;
    for (const [i, field] of fields.entries()) {
      this.#offsets[i] = at;
      this.#lengths[i] = field?.length ?? nullLength;
      at += field?.length ?? 0;
    }
    this.#append(Buffer.concat(fields.filter((field) => field !== null)));
  }

  /** What was added since the last call, one state per key. The other kind's set is empty. */
  take(): TableBatch {
    const states = this.#states;
    this.#states = new StateBuffer(this.#layout, Math.max(4096, states.end));
    return this.#layout.kind === "row" ? collapse(states, undefined) : collapse(undefined, states);
  }

  #expect(count: number): void {
    if (count !== this.#lengths.length) {
      throw new Error(`${this.#layout.table.name}: ${count} values for ${this.#lengths.length} columns`);
    }
  }

  #append(source: Buffer): void {
    const tuple = { offsets: this.#offsets, lengths: this.#lengths, bytes: source.length };
    this.#states.append(source, tuple, this.#positions, this.#shape);
  }
}

export const copySignature = Buffer.from("PGCOPY\n\u{ff}\r\n\0", "latin1");
export const copyHeaderBytes = copySignature.length + 8;
/** In the place of a tuple's number of fields, at the end. */
export const copyTrailer = -1;

/**
 * Cuts the stream of a `COPY ... TO STDOUT (FORMAT binary)` into tuples, wherever its chunks end. A tuple is only
 * valid during the call.
 */
export class CopyTuples {
  /** What came after the last whole tuple. Put together only when the next one can be whole: it may be 1 GB. */
  #rest: Buffer[] = [];
  #restBytes = 0;
  #neededBytes = copyHeaderBytes;
  #headerSeen = false;
  #trailerSeen = false;

  /** True when the end of the data has been seen: a stream that ends before was cut off. */
  get complete(): boolean {
    return this.#trailerSeen;
  }

  push(chunk: Buffer, tuple: (bytes: Buffer) => void): void {
    if (this.#restBytes + chunk.length < this.#neededBytes) {
      this.#keep(chunk);
      return;
    }
    const data = this.#rest.length === 0 ? chunk : Buffer.concat([...this.#rest, chunk]);
    this.#rest = [];
    this.#restBytes = 0;
    let at = this.#headerSeen ? 0 : this.#header(data);
    while (!this.#trailerSeen) {
      const { end, whole } = measureTuple(data, at);
      if (!whole) {
        this.#neededBytes = end - at;
        break;
      }
      if (data.readInt16BE(at) === copyTrailer) {
        this.#trailerSeen = true;
      } else {
        tuple(data.subarray(at, end));
      }
      at = end;
    }
    this.#keep(data.subarray(at));
  }

  /** Copied: the chunk's memory is the driver's. */
  #keep(bytes: Buffer): void {
    if (bytes.length > 0) {
      this.#rest.push(Buffer.from(bytes));
      this.#restBytes += bytes.length;
    }
  }

  #header(data: Buffer): number {
    if (data.compare(copySignature, 0, copySignature.length, 0, copySignature.length) !== 0) {
      throw new Error("not the data of a binary COPY");
    }
    // The length of an extension follows, of which PostgreSQL has none so far.
    if (data.readInt32BE(copySignature.length + 4) !== 0) {
      throw new Error("a binary COPY with an unknown extension");
    }
    this.#headerSeen = true;
    return copyHeaderBytes;
  }
}

/** Where the tuple at `start` ends; while it is not whole, up to where data is needed to tell more. */
const measureTuple = (data: Buffer, start: number): { readonly end: number; readonly whole: boolean } => {
  let at = start + 2;
  if (at > data.length) {
    return { end: at, whole: false };
  }
  for (let left = data.readInt16BE(start); left > 0; left--) {
    if (at + 4 > data.length) {
      return { end: at + 4, whole: false };
    }
    at += 4 + Math.max(0, data.readInt32BE(at));
  }
  return { end: at, whole: at <= data.length };
};
