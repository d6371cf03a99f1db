import { regionOf } from "../../conflict/version.ts";
import type { DifferenceKind, HeldState } from "./verify-report.ts";
import { isHigher, type Bucket, type Progress } from "./verify-region.ts";

/** What was read of one key, by region name. */
export type Reading = ReadonlyMap<string, HeldState>;

/** Whether readers in all regions see the same, and nothing that is about to go. */
export const agrees = (reading: Reading): boolean => {
  const [first, ...others] = reading.values();
  if (first === undefined || first.kind === "unswept") return first === undefined;
  return others.every(
    (other) =>
      other.kind !== "unswept" &&
      other.visible === first.visible &&
      other.visibleBase === first.visibleBase &&
      other.content === first.content,
  );
};

/** The highest state that any region holds. */
export const joined = (reading: Reading): HeldState | null => {
  let highest: HeldState | null = null;
  for (const state of reading.values()) if (isHigher(state, highest)) highest = state;
  return highest;
};

/** A region is behind if it does not hold the join yet. A missing tombstone of a row that it never had is nothing. */
const isBehind = (state: HeldState, join: HeldState): boolean =>
  state.kind === "unswept" ||
  state.kind === "quarantined" ||
  (isHigher(join, state) && !(state.kind === "absent" && join.kind === "tombstone"));

const sameState = (a: HeldState, b: HeldState | undefined): boolean =>
  b !== undefined &&
  a.kind === b.kind &&
  a.version === b.version &&
  a.base === b.base &&
  a.visible === b.visible;

const changed = (first: Reading, last: Reading): boolean =>
  [...last].some(([region, state]) => !sameState(state, first.get(region)));

/** Rows of one version whose columns differ: no merge mends that. */
const contentDiffers = (reading: Reading): boolean => {
  const contents = new Map<string, string | null>();
  for (const state of reading.values()) {
    if (state.visible === null) continue;
    const version = `${state.visibleBase} ${state.visible}`;
    if (contents.has(version) && contents.get(version) !== state.content) return true;
    contents.set(version, state.content);
  }
  return false;
};

export interface Evidence {
  readonly first: Reading;
  readonly last: Reading;
  /** Regions that had not merged, by the last reading, all that their peers had written by the first. */
  readonly lagging: ReadonlySet<string>;
  readonly resyncing: boolean;
}

/**
 * What is the matter with a key whose regions differed at the first reading; null: nothing any more. Settled are
 * keys whose states agree, and those that changed and are now in every region at or above all that any region
 * held at first: what differed then has been merged everywhere, what differs now was written since.
 */
export const judge = ({ first, last, lagging, resyncing }: Evidence): DifferenceKind | null => {
  if (contentDiffers(last)) return "content";
  if (agrees(last)) return isHeldBack(last) ? "quarantined" : null;
  const join = joined(first);
  const moved = changed(first, last);
  if (moved && join !== null && [...last.values()].every((state) => !isBehind(state, join))) return null;
  if (isHeldBack(last)) return "quarantined";
  if (resyncing) return "resyncing";
  const now = joined(last);
  const behind = [...last].filter(([, state]) => now !== null && isBehind(state, now));
  if (behind.some(([region]) => lagging.has(region))) return "inFlight";
  return moved ? "moving" : "states";
};

/** All regions hold the same state, and one or more of them had to set it aside. */
const isHeldBack = (reading: Reading): boolean => {
  const states = [...reading.values()];
  const [first] = states;
  return (
    first !== undefined &&
    states.some((state) => state.kind === "quarantined") &&
    states.every((state) => state.version === first.version && state.base === first.base)
  );
};

/** Numbers of the buckets that are not the same in all regions, with the rows that the fullest region has in each. */
export const differingBuckets = (regions: readonly ReadonlyMap<number, Bucket>[]): Map<number, number> => {
  const numbers = new Set(regions.flatMap((buckets) => [...buckets.keys()]));
  const differing = new Map<number, number>();
  for (const number of numbers) {
    const own = regions.map((buckets) => buckets.get(number) ?? { rows: 0n, hash: 0n });
    const [first] = own;
    if (own.every((bucket) => bucket.rows === first?.rows && bucket.hash === first.hash)) continue;
    differing.set(number, Math.max(...own.map((bucket) => Number(bucket.rows))));
  }
  return differing;
};

/** Bucket numbers in groups of at most `maxRows` rows (a fuller bucket makes a group of its own). */
export const groupBuckets = (differing: ReadonlyMap<number, number>, maxRows: number): number[][] => {
  const groups: number[][] = [];
  let room = 0;
  for (const [number, rows] of differing) {
    const last = groups.at(-1);
    if (last === undefined || rows > room) {
      groups.push([number]);
      room = maxRows - rows;
    } else {
      last.push(number);
      room -= rows;
    }
  }
  return groups;
};

/** Hashes of keys whose states are not the same in all regions, up to `max`. */
export const differingHashes = (regions: readonly ReadonlyMap<string, bigint>[], max: number): string[] => {
  const found = new Set<string>();
  for (const region of regions) {
    for (const [key, state] of region) {
      if (found.size >= max) return [...found];
      if (regions.some((other) => other.get(key) !== state)) found.add(key);
    }
  }
  return [...found];
};

/** By region name: how far each has merged the others' streams. */
export type Merged = ReadonlyMap<
  string,
  { readonly id: number; readonly progress: ReadonlyMap<number, Progress> }
>;

/** Regions which have not merged yet what a peer had written when `marks` were taken. */
export const laggingRegions = (marks: ReadonlyMap<number, Progress>, merged: Merged): Set<string> => {
  const lagging = new Set<string>();
  for (const [name, { id, progress }] of merged) {
    for (const [origin, mark] of marks) {
      const reached = progress.get(origin);
      // No progress at all: no link ever ran between the two, and nothing is on its way.
      if (origin === id || reached === undefined) continue;
      if (reached.incarnation !== mark.incarnation || reached.lsn < mark.lsn) lagging.add(name);
    }
  }
  return lagging;
};

/** Whether every region is known to have merged all that every other had written when `marks` were taken. */
export const allArrived = (marks: ReadonlyMap<number, Progress>, merged: Merged): boolean =>
  [...merged.values()].every(({ id, progress }) =>
    [...marks].every(([origin, mark]) => {
      const reached = progress.get(origin);
      return (
        origin === id ||
        (reached !== undefined && reached.incarnation === mark.incarnation && reached.lsn >= mark.lsn)
      );
    }),
  );

/** Whether the highest state was written by one of these regions: else it may still come from the one that wrote it. */
export const writtenBy = (reading: Reading, regions: ReadonlySet<number>): boolean =>
  regions.has(regionOf(joined(reading)?.version ?? 0n));
