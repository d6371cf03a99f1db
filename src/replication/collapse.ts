import type { TableBatch } from "./batch.ts";
import { layoutOf, shapeOf, type Shape, wholeShape } from "./layout.ts";
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
  const { alive, dead } = join(
    { buffer: rowStates, indices: highestRows(rowStates, since) },
    { buffer: tombstoneStates, indices: tombstoneStates.highest() },
  );
  const sets = setsOf(rowStates, alive, since);
  const whole = sets.find((set) => set.unchanged.length === 0);
  return {
    table,
    rows: whole ?? emptySet(rowStates),
    partial: sets.filter((set) => set !== whole),
    tombstones: new BufferedStates(tombstoneStates, dead, { shape: wholeShape(tombstoneStates.layout) }),
  };
};

const emptySet = (buffer: StateBuffer): StateSet =>
  new BufferedStates(buffer, new Int32Array(), { shape: wholeShape(buffer.layout) });

/** In the order of the keys. */
interface Highest {
  readonly buffer: StateBuffer;
  readonly indices: Int32Array;
}

/** Of keys that have a row and a tombstone the higher one stays. */
const join = (
  rows: Highest,
  tombstones: Highest,
): { readonly alive: Int32Array; readonly dead: Int32Array } => {
  if (rows.indices.length === 0 || tombstones.indices.length === 0) {
    return { alive: rows.indices, dead: tombstones.indices };
  }
  const byKey = new Map(Array.from(rows.indices, (row) => [rows.buffer.keyAt(row), row]));
  const dead = tombstones.indices.filter((tombstone) => {
    const key = tombstones.buffer.keyAt(tombstone);
    const row = byKey.get(key);
    if (row !== undefined && !tombstones.buffer.outranks(tombstone, row, rows.buffer)) return false;
    byKey.delete(key);
    return true;
  });
  return { alive: Int32Array.from(byKey.values()), dead };
};

const highestRows = (rows: StateBuffer, since: Map<number, bigint>): Int32Array =>
  rows.highest((later, earlier) =>
    rows.shapes[later]!.unchanged.length > 0 ? filled(rows, { later, earlier, since }) : later,
  );

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

const setsOf = (rows: StateBuffer, alive: Int32Array, since: ReadonlyMap<number, bigint>): StateSet[] => {
  if (alive.length === 0) return [];
  const shape = rows.shapes[alive[0]!]!;
  if (alive.every((index) => rows.shapes[index] === shape)) {
    return [new BufferedStates(rows, alive, { shape, since })];
  }
  const groups = new Map<string, number[]>();
  for (const index of alive) {
    const { id } = rows.shapes[index]!;
    const group = groups.get(id);
    if (group === undefined) {
      groups.set(id, [index]);
    } else {
      group.push(index);
    }
  }
  return [...groups.values()].map(
    (indices) =>
      new BufferedStates(rows, Int32Array.from(indices), { shape: rows.shapes[indices[0]!]!, since }),
  );
};
