import { Buffer } from "node:buffer";
import type { Layout, Shape } from "./layout.ts";
import {
  arrayHeaderBytes,
  copyBytes,
  firstCount,
  moved,
  type Part,
  viewOf,
  writeArrayHeader,
} from "./binary.ts";
import { keyOrder, keyPrefix, keyText, prefixBytes } from "./key-order.ts";
import { SpareMemory } from "./spare-memory.ts";

/** What a state costs in memory beside its fields: its key, numbers and references. */
export const stateOverheadBytes = 120;
const sampledKeys = 64;
/** As many pieces as a batch is sent in. */
const maxLent = 5;

const zeroDigit = 0x30;

export const nullLength = -1;
export const unchangedLength = -2;

/** Where the values of a tuple lie in a message: by position, with a length or one of the two above. */
export interface Tuple {
  readonly offsets: Int32Array;
  readonly lengths: Int32Array;
  /** As much as all of them, or more. */
  readonly bytes: number;
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
  /** Of each state, by its index; these arrays are longer than there are states. */
  starts = new Int32Array(firstCount);
  versions = new BigInt64Array(firstCount);
  /** Empty where the table has no owners. */
  bases: BigInt64Array;
  /** 1 where `prev` is NULL or 0. */
  firsts = new Uint8Array(firstCount);
  /** Keys as numbers of their first bytes, see `keyOrder`. */
  prefixes = new Float64Array(firstCount);
  shapes: Shape[] = [];
  /** Where the fields of the state being appended begin. */
  readonly #fields: Int32Array;
  readonly #memory: SpareMemory;
  #lent: Buffer[] = [];

  constructor(layout: Layout, capacity = 4096, memory = new SpareMemory(0)) {
    this.layout = layout;
    this.#memory = memory;
    this.bytes = Buffer.allocUnsafe(capacity);
    this.#view = viewOf(this.bytes);
    this.#fields = new Int32Array(layout.columns.length);
    this.bases = new BigInt64Array(layout.base < 0 ? 0 : firstCount);
  }

  get count(): number {
    return this.shapes.length;
  }

  /** `positions`: the position in the tuple for each column of the layout, -1 for none. */
  append(source: Buffer, tuple: Tuple, positions: Int32Array, shape: Shape): void {
    const { columns } = this.layout;
    this.#reserve(8 + columns.length * 8 + tuple.bytes);
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

  /** One column of some states as a binary array. */
  columnOf(indices: Int32Array, position: number, elementOid: number): Buffer {
    let size = arrayHeaderBytes;
    let hasNulls = false;
    for (const index of indices) {
      const length = this.#view.getInt32(this.fieldAt(index, position));
      size += 4 + Math.max(0, length);
      hasNulls ||= length < 0;
    }
    const value = Buffer.allocUnsafe(size);
    writeArrayHeader(value, { count: indices.length, elementOid, hasNulls });
    let at = arrayHeaderBytes;
    for (const index of indices) {
      const from = this.fieldAt(index, position);
      const length = 4 + Math.max(0, this.#view.getInt32(from));
      copyBytes(this.bytes, from, { to: value, at, length });
      at += length;
    }
    return value;
  }

  /** A state as a tuple of a binary COPY of its `carried` columns. Gives where it ends. */
  copyTuple(index: number, carried: readonly boolean[], to: Buffer, start: number): number {
    let at = start + 2;
    let count = 0;
    let from = this.starts[index]! + 12;
    for (let i = 0; i < carried.length; i++) {
      const length = 4 + Math.max(0, this.#view.getInt32(from));
      if (carried[i]!) {
        copyBytes(this.bytes, from, { to, at, length });
        at += length;
        count += 1;
      }
      from += length + 4;
    }
    to.writeInt16BE(count, start);
    return at;
  }

  /** Where the length of a field lies; the field's bytes follow it. */
  fieldAt(index: number, position: number): number {
    let at = this.starts[index]! + 12;
    for (let i = 0; i < position; i++) at += 8 + Math.max(0, this.#view.getInt32(at));
    return at;
  }

  /** Equal for equal keys: a character for each byte. Where a key has several columns, each but the last is preceded by its length. */
  keyAt(index: number): string {
    return keyText(
      this.bytes,
      this.layout.key.map((position) => this.fieldAt(index, position)),
    );
  }

  /** Whether two states have the same key. */
  sameKey(a: number, b: number): boolean {
    if (this.prefixes[a] !== this.prefixes[b]) return false;
    for (const position of this.layout.key) {
      const [left, right] = [this.fieldAt(a, position), this.fieldAt(b, position)];
      // The length is compared with the bytes.
      const length = 4 + this.#view.getInt32(left);
      for (let i = 0; i < length; i++) if (this.bytes[left + i] !== this.bytes[right + i]) return false;
    }
    return true;
  }

  /** Where the state ends. */
  endOf(index: number): number {
    const start = this.starts[index]!;
    return start + 4 + this.#view.getInt32(start);
  }

  /** Whether the state at `index` is higher than the one at `other` of a buffer, by (base, version). */
  outranks(index: number, other: number, of: StateBuffer = this): boolean {
    if (this.layout.base >= 0 && this.bases[index] !== of.bases[other]) {
      return this.bases[index]! > of.bases[other]!;
    }
    return this.versions[index]! > of.versions[other]!;
  }

  /** One state a key, in the order of the keys. `replacing`: what the higher one is, given that which it follows. */
  highest(replacing = (later: number, _earlier: number): number => later): Int32Array {
    // Each takes the place of one that was looked at before.
    const indices = keyOrder(this);
    let count = Math.min(1, indices.length);
    for (const index of indices.subarray(count)) {
      const earlier = indices[count - 1]!;
      if (!this.sameKey(earlier, index)) indices[count++] = index;
      else if (this.outranks(index, earlier)) indices[count - 1] = replacing(index, earlier);
    }
    return indices.subarray(0, count);
  }

  /**
   * Leaves out what is outranked by another state of its key, if that is much. Not where a state lacks unchanged columns:
   * it may need those of an earlier one.
   */
  compact(): void {
    if (!this.#repeatsKeys() || this.shapes.some((shape) => shape.unchanged.length > 0)) {
      return;
    }
    this.#keep(this.highest().sort());
  }

  /**
   * Takes the first `count` states out, with the memory they lie in; the rest is moved to other memory.
   */
  detach(count: number): StateBuffer {
    const cut = count < this.count ? this.starts[count]! : this.end;
    const rest = this.end - cut;
    const head = new StateBuffer(this.layout, 0, this.#memory);
    head.bytes = this.bytes;
    head.#view = this.#view;
    head.end = cut;
    head.starts = this.starts;
    head.versions = this.versions;
    head.bases = this.bases;
    head.firsts = this.firsts;
    head.prefixes = this.prefixes;
    // A batch is not larger than it has to be, but what follows will probably be as large, or a little larger.
    this.#move({ from: count, to: this.count, size: count });
    head.shapes = this.shapes;
    this.shapes = head.shapes.splice(count);
    this.bytes = this.#memory.take(Math.max(4096, arrayHeaderBytes + rest * 2, Math.ceil(cut * 1.125)));
    this.#view = viewOf(this.bytes);
    head.bytes.copy(this.bytes, arrayHeaderBytes, cut, cut + rest);
    this.end = arrayHeaderBytes + rest;
    for (let i = 0; i < this.count; i++) {
      this.starts[i]! += arrayHeaderBytes - cut;
    }
    return head;
  }

  /** Memory for something that is made of these states, until they are released. */
  lend(bytes: number): Buffer {
    // What is made of parts of them, again and again after failures, is left to the collector.
    if (this.#lent.length === maxLent) return Buffer.allocUnsafe(bytes);
    const memory = this.#memory.take(bytes);
    this.#lent.push(memory);
    return memory.subarray(0, bytes);
  }

  /** Neither the states nor what was made of them is read any more. */
  release(): void {
    for (const memory of [this.bytes, ...this.#lent.splice(0)]) this.#memory.give(memory);
    this.bytes = Buffer.alloc(0);
    this.#view = viewOf(this.bytes);
    this.end = 0;
  }

  /** Looks for some of the keys only. */
  #repeatsKeys(): boolean {
    if (this.count < sampledKeys) return false;
    const some = new Map<number, number>();
    for (let i = 0; i < sampledKeys; i++) if (!some.has(this.prefixes[i]!)) some.set(this.prefixes[i]!, i);
    let found = 0;
    for (let i = 0; i < this.count; i++) {
      const sampled = some.get(this.prefixes[i]!);
      if (sampled !== undefined && this.sameKey(sampled, i)) found += 1;
    }
    return found >= 2 * some.size;
  }

  /** Ascending indices. */
  #keep(indices: Int32Array): void {
    let end = arrayHeaderBytes;
    for (const [to, from] of indices.entries()) {
      const start = this.starts[from]!;
      const stop = this.endOf(from);
      this.bytes.copyWithin(end, start, stop);
      this.starts[to] = end;
      this.versions[to] = this.versions[from]!;
      this.firsts[to] = this.firsts[from]!;
      if (this.layout.base >= 0) {
        this.bases[to] = this.bases[from]!;
      }
      this.prefixes[to] = this.prefixes[from]!;
      this.shapes[to] = this.shapes[from]!;
      end += stop - start;
    }
    this.shapes.length = indices.length;
    this.end = end;
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
    const index = this.count;
    if (index === this.starts.length) {
      this.#move({ from: 0, to: index, size: 2 * index });
    }
    this.starts[index] = start;
    this.#note(this.versions, index, layout.version);
    if (layout.base >= 0) this.#note(this.bases, index, layout.base);
    this.firsts[index] = this.#isZero(layout.prev) ? 1 : 0;
    this.#notePrefix(index);
    this.shapes.push(shape);
    this.end = end;
  }

  /** Of the state being appended. Not given but written: a number on its way may be an object, as a bigint always is. */
  #notePrefix(index: number): void {
    const { key, table } = this.layout;
    const at = this.#fields[key[0]!]!;
    for (let i = 0; i < key.length; i++) {
      if (this.#view.getInt32(this.#fields[key[i]!]! + 4) < 0)
        throw new Error(`${table.name}: a change without its key`);
    }
    if (key.length === 1 && this.#view.getInt32(at + 4) >= prefixBytes) {
      this.prefixes[index] =
        (this.#view.getInt32(at + 8) >>> 0) * 65_536 + (this.#view.getInt32(at + 10) & 0xffff);
      return;
    }
    const lengths = key.map((position) => this.#fields[position]! + 4);
    this.prefixes[index] = keyPrefix(keyText(this.bytes, lengths));
  }

  #note(numbers: BigInt64Array, index: number, position: number): void {
    const at = this.#fields[position]!;
    const length = this.#view.getInt32(at + 4);
    if (length < 0) numbers[index] = 0n;
    else if (this.layout.format === "binary") numbers[index] = this.#view.getBigInt64(at + 8);
    else numbers[index] = BigInt(this.bytes.toString("latin1", at + 8, at + 8 + length));
  }

  /** A field of the state being appended which is a bigint: whether it is NULL or 0. */
  #isZero(position: number): boolean {
    const at = this.#fields[position]!;
    const length = this.#view.getInt32(at + 4);
    if (length < 0) return true;
    if (this.layout.format === "text") return length === 1 && this.bytes[at + 8] === zeroDigit;
    return this.#view.getInt32(at + 8) === 0 && this.#view.getInt32(at + 12) === 0;
  }

  /** The numbers of a part of the states to new arrays. */
  #move(part: Part): void {
    this.starts = moved(this.starts, part);
    this.versions = moved(this.versions, part);
    this.bases = moved(this.bases, part);
    this.firsts = moved(this.firsts, part);
    this.prefixes = moved(this.prefixes, part);
  }

  #reserve(size: number): void {
    const needed = this.end + size;
    if (needed <= this.bytes.length) {
      return;
    }
    const larger = this.#memory.take(Math.max(needed, this.bytes.length * 2));
    this.bytes.copy(larger, 0, 0, this.end);
    this.#memory.give(this.bytes);
    this.bytes = larger;
    this.#view = viewOf(larger);
  }
}
