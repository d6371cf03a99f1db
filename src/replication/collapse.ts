import type { TableBatch } from "./batch.ts";
import { layoutOf, shapeOf, type Shape } from "./layout.ts";
import { StateBuffer } from "./state-buffer.ts";
import { BufferedStates, readPrev } from "./state-set.ts";
import type { StateSet } from "./states.ts";

/**
 * Keeps of every key the highest state by (base, version), over rows and tombstones, and orders what is left by key.
 *
 * An unchanged TOAST column of a later change is taken from the earlier one if the later was written upon exactly that
 * one (its `cg_prev` is the other's version). Otherwise a third region's write lies between them, and what the
 * source held then is not in the batch.
 *
 * The buffers are given away: they grow by the filled rows, and the sets refer to them. One of them may be missing.
 */
export const collapse = (rows: StateBuffer | undefined, tombstones: StateBuffer | undefined): TableBatch => {
  const known = rows ?? tombstones;
  if (known === undefined) {
    throw new Error("nothing to collapse");
  }
  const { table, format } = known.layout;
  const rowStates = rows ?? new StateBuffer(layoutOf(table, "row", format), 0);
  const tombstoneStates = tombstones ?? new StateBuffer(layoutOf(table, "tombstone", format), 0);
  const since = new Map<number, bigint>();
  const highest = highestRows(rowStates, since);
  const dead: number[] = [];
  for (const [key, tombstone] of highestTombstones(tombstoneStates)) {
    const row = highest.get(key);
    if (row === undefined || outranks(tombstoneStates, tombstone, rowStates, row)) {
      highest.delete(key);
      dead.push(tombstone);
    }
  }
  const sets = setsOf(rowStates, highest, since);
  const whole = sets.find((set) => set.unchanged.length === 0);
  return {
    table,
    rows: whole ?? emptySet(rowStates),
    partial: sets.filter((set) => set !== whole),
    tombstones: new BufferedStates(tombstoneStates, byKey(tombstoneStates, dead), {
      shape: shapeOf(tombstoneStates.layout, [], []),
    }),
  };
};

const emptySet = (buffer: StateBuffer): StateSet =>
  new BufferedStates(buffer, [], { shape: shapeOf(buffer.layout, [], []) });

/** Whether state `a` of `left` is higher than state `b` of `right`. */
const outranks = (left: StateBuffer, a: number, right: StateBuffer, b: number): boolean => {
  if (left.layout.base >= 0 && left.bases[a] !== right.bases[b]) {
    return left.bases[a]! > right.bases[b]!;
  }
  return left.versions[a]! > right.versions[b]!;
};

const highestRows = (rows: StateBuffer, since: Map<number, bigint>): Map<string, number> => {
  const highest = new Map<string, number>();
  const received = rows.count;
  for (let i = 0; i < received; i++) {
    const key = rows.keys[i]!;
    const earlier = highest.get(key);
    if (earlier === undefined) {
      highest.set(key, i);
    } else if (outranks(rows, i, rows, earlier)) {
      highest.set(key, rows.shapes[i]!.unchanged.length > 0 ? filled(rows, { later: i, earlier, since }) : i);
    }
  }
  return highest;
};

interface Succession {
  readonly later: number;
  readonly earlier: number;
  readonly since: Map<number, bigint>;
}

/** The later of two changes with what it takes over from the earlier one: itself, or a new state. */
const filled = (rows: StateBuffer, { later, earlier, since }: Succession): number => {
  const { unchanged, absent } = rows.shapes[later]!;
  const before: Shape = rows.shapes[earlier]!;
  const follows = readPrev(rows, later) === rows.versions[earlier];
  if (!follows || unchanged.some((position) => before.absent.includes(position))) {
    return later;
  }
  const still = unchanged.filter((position) => before.unchanged.includes(position));
  rows.appendFilled(later, earlier, shapeOf(rows.layout, absent, still));
  const index = rows.count - 1;
  if (still.length > 0) {
    since.set(index, since.get(earlier) ?? readPrev(rows, earlier));
  }
  return index;
};

const highestTombstones = (tombstones: StateBuffer): Map<string, number> => {
  const highest = new Map<string, number>();
  for (let i = 0; i < tombstones.count; i++) {
    const key = tombstones.keys[i]!;
    const earlier = highest.get(key);
    if (earlier === undefined || outranks(tombstones, i, tombstones, earlier)) {
      highest.set(key, i);
    }
  }
  return highest;
};

const setsOf = (
  rows: StateBuffer,
  highest: ReadonlyMap<string, number>,
  since: ReadonlyMap<number, bigint>,
): StateSet[] => {
  const groups = new Map<string, number[]>();
  for (const index of highest.values()) {
    const { id } = rows.shapes[index]!;
    const group = groups.get(id);
    if (group === undefined) {
      groups.set(id, [index]);
    } else {
      group.push(index);
    }
  }
  return [...groups.values()].map(
    (indices) => new BufferedStates(rows, byKey(rows, indices), { shape: rows.shapes[indices[0]!]!, since }),
  );
};

/** Sorts in place, by the bytes of the keys. */
const byKey = (buffer: StateBuffer, indices: number[]): number[] => {
  const { keys } = buffer;
  for (let i = 1; i < indices.length; i++) {
    if (keys[indices[i]!]! < keys[indices[i - 1]!]!) {
      return indices.length < 64 ? byComparison(keys, indices) : byPrefix(keys, indices);
    }
  }
  return indices;
};

const byComparison = (keys: readonly string[], indices: number[]): number[] =>
  indices.sort((a, b) => (keys[a]! < keys[b]! ? -1 : 1));

const placeBits = 2 ** 21;

/**
 * Numbers are sorted several times faster than by a comparison that is a call: 32 bits of a key's start and its place
 * make a number of 53 bits, which a double holds exactly. What starts alike is compared after.
 */
const byPrefix = (keys: readonly string[], indices: number[]): number[] => {
  if (indices.length >= placeBits) return byComparison(keys, indices);
  const order = Float64Array.from(
    indices,
    (index, place) => prefixOf(keys[index]!) * placeBits + place,
  ).sort();
  const given = indices.slice();
  let alike = 0;
  for (let i = 0; i <= order.length; i++) {
    if (i < order.length) indices[i] = given[order[i]! % placeBits]!;
    if (i < order.length && Math.floor(order[i]! / placeBits) === Math.floor(order[alike]! / placeBits))
      continue;
    if (i - alike > 1) {
      const run = byComparison(keys, indices.slice(alike, i));
      for (const [offset, index] of run.entries()) indices[alike + offset] = index;
    }
    alike = i;
  }
  return indices;
};

/** The first four characters as bytes. A length before a part of a key may be larger: then it counts as the largest. */
const prefixOf = (key: string): number => {
  let prefix = 0;
  for (let i = 0; i < 4; i++) prefix = prefix * 256 + (i < key.length ? Math.min(255, key.charCodeAt(i)) : 0);
  return prefix;
};
