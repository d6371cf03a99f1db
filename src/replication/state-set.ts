import { Buffer } from "node:buffer";
import { identifier } from "../postgres/identifiers.ts";
import type { Column } from "../postgres/table.ts";
import type { Layout, Shape } from "./layout.ts";
import { arrayHeaderBytes, writeArrayHeader } from "./binary.ts";
import type { StateBuffer } from "./state-buffer.ts";
import type { StateSet } from "./states.ts";

const textOid = 25;

const copyHeader = Buffer.from("PGCOPY\n\u{ff}\r\n\0\0\0\0\0\0\0\0\0", "latin1");
const copyTrailer = Buffer.from([0xff, 0xff]);

/** A set of states of one shape in a buffer that grows no more: indices of states, in the order of their keys. */
export class BufferedStates implements StateSet {
  readonly #buffer: StateBuffer;
  readonly #indices: Int32Array;
  readonly #shape: Shape;
  /** Where a collapsed state's unchanged columns are those of an older version than its `prev`. */
  readonly #since: ReadonlyMap<number, bigint>;
  #value: Buffer | null = null;
  #copyData: Buffer | null = null;

  constructor(
    buffer: StateBuffer,
    indices: Int32Array,
    { shape, since = new Map() }: { readonly shape: Shape; readonly since?: ReadonlyMap<number, bigint> },
  ) {
    this.#buffer = buffer;
    this.#indices = indices;
    this.#shape = shape;
    this.#since = since;
  }

  get #layout(): Layout {
    return this.#buffer.layout;
  }

  get table(): StateSet["table"] {
    return this.#layout.table;
  }

  get kind(): StateSet["kind"] {
    return this.#layout.kind;
  }

  get format(): StateSet["format"] {
    return this.#layout.format;
  }

  get count(): number {
    return this.#indices.length;
  }

  get bytes(): number {
    const buffer = this.#buffer;
    let sum = 0;
    for (const i of this.#indices) sum += buffer.endOf(i) - buffer.starts[i]!;
    return sum;
  }

  get columns(): readonly Column[] {
    return this.#shape.carried;
  }

  get unchanged(): readonly Column[] {
    return this.#shape.unchanged.map((position) => this.#layout.columns[position]!);
  }

  source(parameter: number): string {
    return this.format === "binary"
      ? `unnest($${parameter}::${this.#layout.rowType}[])`
      : `unnest(($${parameter}::text[])::${this.#layout.rowType}[])`;
  }

  value(): Buffer {
    this.#value ??= this.format === "binary" ? this.#binaryArray() : this.#literalArray();
    return this.#value;
  }

  copyData(): Buffer {
    this.#copyData ??= this.#tuples();
    return this.#copyData;
  }

  #tuples(): Buffer {
    const carried = this.#layout.columns.map((column) => this.columns.includes(column));
    // Smaller in any case: a state loses the types of its fields, and gains nothing.
    const data = this.#buffer.lend(copyHeader.length + this.bytes + copyTrailer.length);
    let at = copyHeader.copy(data);
    for (const i of this.#indices) at = this.#buffer.copyTuple(i, carried, data, at);
    at += copyTrailer.copy(data, at);
    return data.subarray(0, at);
  }

  version(index: number): bigint {
    return this.#buffer.versions[this.#at(index)]!;
  }

  base(index: number): bigint {
    return this.#layout.base < 0 ? 0n : this.#buffer.bases[this.#at(index)]!;
  }

  prev(index: number): bigint {
    return readPrev(this.#buffer, this.#at(index));
  }

  seen(index: number): readonly bigint[] {
    const field = this.#buffer.field(this.#at(index), this.#layout.seen);
    if (field === null) {
      return [];
    }
    return this.format === "binary" ? binaryBigints(field) : textBigints(field.toString("latin1"));
  }

  unchangedSince(index: number): bigint {
    return this.#since.get(this.#at(index)) ?? this.prev(index);
  }

  keyPrefix(index: number): number {
    return this.#buffer.prefixes[this.#at(index)]!;
  }

  keyId(index: number): string {
    return this.#buffer.keyAt(this.#at(index));
  }

  field(index: number, column: string): Buffer | null {
    return this.#buffer.field(this.#at(index), this.#position(column));
  }

  columnSource(column: string, parameter: number): string {
    const { typeSchema, typeName } = this.#layout.columns[this.#position(column)]!;
    const type = `${identifier(typeSchema)}.${identifier(typeName)}[]`;
    return this.format === "binary" ? `$${parameter}::${type}` : `($${parameter}::text[])::${type}`;
  }

  columnValue(column: string): Buffer {
    const position = this.#position(column);
    const { typeOid } = this.#layout.columns[position]!;
    return this.#buffer.columnOf(this.#indices, position, this.format === "binary" ? typeOid : textOid);
  }

  isFirst(index: number): boolean {
    return this.#buffer.firsts[this.#at(index)] === 1;
  }

  slice(start: number, end: number): StateSet {
    return this.#subset(this.#indices.subarray(start, end));
  }

  pick(indices: readonly number[]): StateSet {
    return this.#subset(Int32Array.from(indices, (index) => this.#at(index)));
  }

  #subset(indices: Int32Array): StateSet {
    return new BufferedStates(this.#buffer, indices, { shape: this.#shape, since: this.#since });
  }

  #at(index: number): number {
    const at = this.#indices[index];
    if (at === undefined) {
      throw new RangeError(`state ${index} of ${this.count}`);
    }
    return at;
  }

  #position(column: string): number {
    const position = this.#layout.columns.findIndex((other) => other.name === column);
    if (position < 0) {
      throw new RangeError(`${this.table.name} has no column ${column}`);
    }
    return position;
  }

  /** The states lie in the buffer as elements of an array: neighbours are copied together. */
  #binaryArray(): Buffer {
    const buffer = this.#buffer;
    const { bytes } = buffer;
    const size = arrayHeaderBytes + this.bytes;
    const whole = size === buffer.end && this.#ascends;
    const value = whole ? bytes.subarray(0, size) : buffer.lend(size);
    // The receiving side takes the element type from the statement; see PostgreSQL's array_recv.
    writeArrayHeader(value, { count: this.count, elementOid: 0, hasNulls: false });
    if (whole) return value;
    let at = arrayHeaderBytes;
    let start = 0;
    let end = 0;
    for (const i of this.#indices) {
      if (buffer.starts[i] !== end) {
        at += bytes.copy(value, at, start, end);
        start = buffer.starts[i]!;
      }
      end = buffer.endOf(i);
    }
    bytes.copy(value, at, start, end);
    return value;
  }

  get #ascends(): boolean {
    return this.#indices.every((index, at) => at === 0 || this.#indices[at - 1]! < index);
  }

  #literalArray(): Buffer {
    const literals = Array.from(this.#indices, (i) => {
      const fields = this.#buffer.fieldsOf(i).map(({ offset, length }) =>
        // Quoting touches single bytes of ASCII only, so the text's encoding does not matter.
        length < 0 ? "" : quoteField(this.#buffer.bytes.toString("latin1", offset, offset + length)),
      );
      return Buffer.from(`(${fields.join(",")})`, "latin1");
    });
    return arrayOf(literals, textOid);
  }
}

/** A field of a composite literal. */
const quoteField = (text: string): string => `"${text.replaceAll(/["\\]/g, (c) => c + c)}"`;

export const readPrev = (buffer: StateBuffer, index: number): bigint => {
  const field = buffer.field(index, buffer.layout.prev);
  if (field === null) {
    return 0n;
  }
  return buffer.layout.format === "binary" ? field.readBigInt64BE() : BigInt(field.toString("latin1"));
};

const textBigints = (literal: string): bigint[] =>
  literal
    .slice(1, -1)
    .split(",")
    .filter((item) => item !== "")
    .map(BigInt);

const binaryBigints = (array: Buffer): bigint[] => {
  const items: bigint[] = [];
  for (let at = arrayHeaderBytes; at < array.length; at += 12) {
    items.push(array.readBigInt64BE(at + 4));
  }
  return items;
};

const arrayOf = (fields: readonly (Buffer | null)[], elementOid: number): Buffer => {
  const size = fields.reduce((sum, field) => sum + 4 + (field?.length ?? 0), arrayHeaderBytes);
  const value = Buffer.allocUnsafe(size);
  writeArrayHeader(value, { count: fields.length, elementOid, hasNulls: fields.includes(null) });
  let at = arrayHeaderBytes;
  for (const field of fields) {
    at = value.writeInt32BE(field?.length ?? -1, at);
    at += field?.copy(value, at) ?? 0;
  }
  return value;
};
