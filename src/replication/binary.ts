import type { Buffer } from "node:buffer";

/** Of a PostgreSQL array's binary form: what comes before its elements. */
export const arrayHeaderBytes = 20;

/** Arrays of numbers have room for so many at first. */
export const firstCount = 64;

export const viewOf = (bytes: Buffer): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);

/** At the start of a binary array; see PostgreSQL's array_recv. */
export const writeArrayHeader = (
  value: Buffer,
  header: { readonly count: number; readonly elementOid: number; readonly hasNulls: boolean },
): void => {
  value.writeInt32BE(1, 0);
  value.writeInt32BE(header.hasNulls ? 1 : 0, 4);
  value.writeUInt32BE(header.elementOid, 8);
  value.writeInt32BE(header.count, 12);
  value.writeInt32BE(1, 16);
};

export interface Part {
  readonly from: number;
  readonly to: number;
  /** Of the new array, at least. */
  readonly size: number;
}

/** A part of an array as the start of a new one. */
export const moved = <T extends Int32Array | BigInt64Array | Float64Array | Uint8Array>(
  array: T,
  { from, to, size }: Part,
): T => {
  if (array.length === 0) {
    return array;
  }
  const larger = new (array.constructor as new (length: number) => T)(
    Math.max(firstCount, 2 * (to - from), size),
  );
  larger.set(array.subarray(from, to) as never);
  return larger;
};

/** Below some 30 bytes a loop is faster than a call of `copy`. */
export const copyBytes = (
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
