import type { Buffer } from "node:buffer";

/** So many bytes of a key make its prefix; what starts alike is compared whole. */
export const prefixBytes = 6;
/** What a double holds exactly. */
const exactBits = 53;
/** Beyond, the places alone would leave little of the keys. */
const maxPlaces = 2 ** 24;

/** States by the order of their arrival, which have keys. */
export interface Keyed {
  readonly count: number;
  /** For each the start of its key as a number, so that numbers ascend as keys do. */
  readonly prefixes: Float64Array;
  /** A character for each byte. */
  keyAt(index: number): string;
  /** Whether two have the same key. */
  sameKey(a: number, b: number): boolean;
}

/**
 * The first characters as bytes. A length before a part of a key may be larger: then it and what follows count as the largest,
 * for keys of which one is longer yet are told apart by that.
 */
export const keyPrefix = (key: string): number => {
  let prefix = 0;
  let larger = false;
  for (let i = 0; i < prefixBytes; i++) {
    const code = i < key.length ? key.charCodeAt(i) : 0;
    larger ||= code > 255;
    prefix = prefix * 256 + (larger ? 255 : code);
  }
  return prefix;
};

/**
 * The indices in the order of the keys' bytes, those of one key as they came. Numbers are sorted several times faster than by a
 * comparison that is a call, and no key is made a string: the start of a key and its place together make a number.
 */
export const keyOrder = (states: Keyed): Int32Array => {
  const { count, prefixes } = states;
  const order = new Int32Array(count);
  for (let i = 0; i < count; i++) order[i] = i;
  if (ascends(prefixes, count)) return order;
  if (count > maxPlaces) {
    sortAlike(states, order);
    return order;
  }
  const placeBits = Math.ceil(Math.log2(count));
  const places = 2 ** placeBits;
  const cut = 2 ** Math.max(0, prefixBytes * 8 + placeBits - exactBits);
  const numbers = new Float64Array(count);
  for (let i = 0; i < count; i++) numbers[i] = Math.floor(prefixes[i]! / cut) * places + i;
  numbers.sort();
  let alike = 0;
  for (let i = 0; i <= count; i++) {
    if (i < count) order[i] = numbers[i]! % places;
    if (i < count && Math.floor(numbers[i]! / places) === Math.floor(numbers[alike]! / places)) continue;
    if (i - alike > 1) sortAlike(states, order.subarray(alike, i));
    alike = i;
  }
  return order;
};

/** Strictly, so that no two are of one key. */
const ascends = (prefixes: Float64Array, count: number): boolean => {
  for (let i = 1; i < count; i++) if (prefixes[i]! <= prefixes[i - 1]!) return false;
  return true;
};

/** Those whose keys begin alike, and which are in the order of their arrival. */
const sortAlike = (states: Keyed, indices: Int32Array): void => {
  if (indices.every((index) => states.sameKey(indices[0]!, index))) return;
  const keyed = Array.from(indices, (index) => ({ index, key: states.keyAt(index) }));
  // Stable: those of one key stay as they came.
  keyed.sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0));
  for (const [at, { index }] of keyed.entries()) indices[at] = index;
};

/**
 * Equal for equal keys: a character for each byte. Where a key has several columns, each but the last is preceded by its length.
 * `at`: where the lengths of the key's fields lie.
 */
export const keyText = (bytes: Buffer, at: readonly number[]): string => {
  let text = "";
  for (const [i, start] of at.entries()) {
    const length = bytes.readInt32BE(start);
    const part = bytes.toString("latin1", start + 4, start + 4 + length);
    if (at.length === 1) return part;
    text += i === at.length - 1 ? part : String.fromCodePoint(length) + part;
  }
  return text;
};
