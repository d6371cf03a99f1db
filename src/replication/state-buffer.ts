import { Buffer } from "node:buffer";
import type { Layout, Shape } from "./layout.ts";

/** Space before the first state for the header of a PostgreSQL array. */
export const arrayHeaderBytes = 20;
/** What a state costs in memory beside its fields: its key, numbers and references. */
export const stateOverheadBytes = 160;

export const nullLength = -1;
export const unchangedLength = -2;

/** Where the values of a tuple lie in a message: by position, with a length or one of the two above. */
export interface Tuple {
  readonly offsets: Int32Array;
  readonly lengths: Int32Array;
}

/**
 * States of one relation in the order of their changes, each as it will be sent: an element of a binary array of
 * the relation's row type.
 *
 *     int32 length | int32 number of fields | for each field: int32 type OID, int32 length or -1, bytes
 *
 * The field layout of PostgreSQL's binary composites is that of pgoutput's values, so a value is copied once, from the
 * message to here. With format `text` the bytes of a field are its text.
 */
export class StateBuffer {
  readonly layout: Layout;
  bytes: Buffer;
  #view: DataView;
  end = arrayHeaderBytes;
  starts: number[] = [];
  keys: string[] = [];
  versions: bigint[] = [];
  /** Empty where the table has no owners. */
  bases: bigint[] = [];
  shapes: Shape[] = [];
  /** Where the fields of the state being appended begin. */
  readonly #fields: Int32Array;

  constructor(layout: Layout, capacity = 4096) {
    this.layout = layout;
    this.bytes = Buffer.allocUnsafe(capacity);
    this.#view = viewOf(this.bytes);
    this.#fields = new Int32Array(layout.columns.length);
  }

  get count(): number {
    return this.starts.length;
  }

  /** `positions`: the position in the tuple for each column of the layout, -1 for none. */
  append(source: Buffer, tuple: Tuple, positions: Int32Array, shape: Shape): void {
    const { columns } = this.layout;
    this.#reserve(8 + columns.length * 8 + source.length);
    const start = this.end;
    let at = start + 8;
    for (let i = 0; i < columns.length; i++) {
      const position = positions[i]!;
      const length = position < 0 ? nullLength : tuple.lengths[position]!;
      at = this.#appendField(i, at, length < 0 ? nullLength : length);
      if (length > 0) {
        copyBytes(source, tuple.offsets[position]!, { to: this.bytes, at, length });
        at += length;
      }
    }
    this.#finish(start, at, shape);
  }

  /** The state `index` with those of its unchanged columns that `earlier` carries. */
  appendFilled(index: number, earlier: number, shape: Shape): void {
    const later = this.fieldsOf(index);
    const before = this.fieldsOf(earlier);
    const filled = new Set(this.shapes[index]!.unchanged.filter((i) => !shape.unchanged.includes(i)));
    const pieces = this.layout.columns.map((_, i) => (filled.has(i) ? before[i]! : later[i]!));
    const size = pieces.reduce((sum, field) => sum + 8 + Math.max(0, field.length), 8);
    this.#reserve(size);
    const start = this.end;
    let at = start + 8;
    for (const [i, { offset, length }] of pieces.entries()) {
      at = this.#appendField(i, at, length);
      if (length > 0) {
        this.bytes.copyWithin(at, offset, offset + length);
        at += length;
      }
    }
    this.#finish(start, at, shape);
  }

  /** Offset and length (-1 for NULL) of every field of a state. */
  fieldsOf(index: number): { readonly offset: number; readonly length: number }[] {
    let at = this.starts[index]! + 8;
    return this.layout.columns.map(() => {
      const length = this.#view.getInt32(at + 4);
      const field = { offset: at + 8, length };
      at += 8 + Math.max(0, length);
      return field;
    });
  }

  field(index: number, position: number): Buffer | null {
    const at = this.fieldAt(index, position);
    const length = this.#view.getInt32(at);
    return length < 0 ? null : this.bytes.subarray(at + 4, at + 4 + length);
  }

  /** Where the length of a field lies; the field's bytes follow it. */
  fieldAt(index: number, position: number): number {
    let at = this.starts[index]! + 12;
    for (let i = 0; i < position; i++) at += 8 + Math.max(0, this.#view.getInt32(at));
    return at;
  }

  /** A field of format `binary` that is a bigint: whether it is NULL or 0. */
  isZero(index: number, position: number): boolean {
    const at = this.fieldAt(index, position);
    return (
      this.#view.getInt32(at) < 0 || (this.#view.getInt32(at + 4) === 0 && this.#view.getInt32(at + 8) === 0)
    );
  }

  /** Where the state ends. */
  endOf(index: number): number {
    const start = this.starts[index]!;
    return start + 4 + this.#view.getInt32(start);
  }

  /** Takes the first `count` states out, with the memory they lie in; the rest is moved to fresh memory. */
  detach(count: number): StateBuffer {
    const cut = count < this.count ? this.starts[count]! : this.end;
    const rest = this.end - cut;
    const head = new StateBuffer(this.layout, 0);
    head.bytes = this.bytes;
    head.#view = this.#view;
    head.end = cut;
    head.starts = this.starts.splice(0, count);
    head.keys = this.keys.splice(0, count);
    head.versions = this.versions.splice(0, count);
    head.bases = this.bases.splice(0, count);
    head.shapes = this.shapes.splice(0, count);
    // The next batch will probably be as large as this one.
    this.bytes = Buffer.allocUnsafe(Math.max(4096, arrayHeaderBytes + rest * 2, cut));
    this.#view = viewOf(this.bytes);
    head.bytes.copy(this.bytes, arrayHeaderBytes, cut, cut + rest);
    this.end = arrayHeaderBytes + rest;
    for (let i = 0; i < this.starts.length; i++) {
      this.starts[i]! += arrayHeaderBytes - cut;
    }
    return head;
  }

  #appendField(position: number, at: number, length: number): number {
    this.#view.setInt32(at, this.layout.columns[position]!.typeOid);
    this.#view.setInt32(at + 4, length);
    this.#fields[position] = at;
    return at + 8;
  }

  #finish(start: number, end: number, shape: Shape): void {
    const { layout } = this;
    this.#view.setInt32(start, end - start - 4);
    this.#view.setInt32(start + 4, layout.columns.length);
    const key = this.#keyId();
    const version = this.#bigint(layout.version);
    if (layout.base >= 0) {
      this.bases.push(this.#bigint(layout.base));
    }
    this.starts.push(start);
    this.keys.push(key);
    this.versions.push(version);
    this.shapes.push(shape);
    this.end = end;
  }

  /** One character per byte. Where a key has several columns, each but the last is preceded by its length. */
  #keyId(): string {
    const { key } = this.layout;
    let id = "";
    for (let k = 0; k < key.length; k++) {
      const at = this.#fields[key[k]!]!;
      const length = this.#view.getInt32(at + 4);
      if (length < 0) {
        throw new Error(`${this.layout.table.name}: a change without its key`);
      }
      const part = this.bytes.toString("latin1", at + 8, at + 8 + length);
      if (key.length === 1) {
        return part;
      }
      id += String.fromCodePoint(length) + part;
    }
    return id;
  }

  #bigint(position: number): bigint {
    const at = this.#fields[position]!;
    const length = this.#view.getInt32(at + 4);
    if (length < 0) {
      return 0n;
    }
    return this.layout.format === "binary"
      ? this.#view.getBigInt64(at + 8)
      : BigInt(this.bytes.toString("latin1", at + 8, at + 8 + length));
  }

  #reserve(size: number): void {
    const needed = this.end + size;
    if (needed <= this.bytes.length) {
      return;
    }
    const larger = Buffer.allocUnsafe(Math.max(needed, this.bytes.length * 2));
    this.bytes.copy(larger, 0, 0, this.end);
    this.bytes = larger;
    this.#view = viewOf(larger);
  }
}

const viewOf = (bytes: Buffer): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);

/** Below some 30 bytes a loop is faster than a call of `copy`. */
const copyBytes = (
  source: Buffer,
  from: number,
  { to, at, length }: { readonly to: Buffer; readonly at: number; readonly length: number },
): void => {
  if (length > 32) {
    source.copy(to, at, from, from + length);
    return;
  }
  for (let i = 0; i < length; i++) {
    to[at + i] = source[from + i]!;
  }
};
