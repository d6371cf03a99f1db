import { nextVersion, regionOf, type Version } from "./version.ts";

/** What belongs to every state of a key, and travels with it. */
interface Stamp {
  /** The last version in the chain that was written with authority (ownership.ts); 0n: none, or no owners. */
  readonly base: Version;
  readonly version: Version;
  /** The version of the state that this one was written upon; 0n: none. */
  readonly prev: Version;
  /**
   * The highest version of every region but this state's own in the chain of states that this one was written
   * upon, ascending by region; null: one region alone has written the chain. Never empty.
   */
  readonly seen: readonly Version[] | null;
}

/** A live row; `content` stands for the columns of the user, two rows of equal text being the same. */
export interface Row extends Stamp {
  readonly kind: "row";
  readonly content: string;
}

export interface Tombstone extends Stamp {
  readonly kind: "tombstone";
}

/** What a region holds of one key, if it holds anything. */
export type State = Row | Tombstone;

/** The order of states, lexicographic on (base, version): negative, zero or positive as `a` is lower, equal or higher. */
export const compareStates = (a: State, b: State): number => {
  if (a.base !== b.base) return a.base < b.base ? -1 : 1;
  if (a.version !== b.version) return a.version < b.version ? -1 : 1;
  return 0;
};

/**
 * The join of two states of one key: the higher. Equal ones are the same state, for a version is unique per key;
 * the first is given then.
 */
export const join = (a: State, b: State): State => (compareStates(a, b) >= 0 ? a : b);

/** The highest version that a write upon this state must outrank. */
const highest = (state: State): Version => (state.base > state.version ? state.base : state.version);

/** `seen` of a write made in `region` upon `replaced`. */
export const seenAfter = (replaced: State | null, region: number): readonly Version[] | null => {
  if (replaced === null) return null;
  const author = regionOf(replaced.version);
  if (author === region) return replaced.seen;
  const others = (replaced.seen ?? []).filter((v) => regionOf(v) !== region && regionOf(v) !== author);
  return [...others, replaced.version].sort((a, b) => regionOf(a) - regionOf(b));
};

/** A write made in a region: what becomes of the key, and the circumstances. */
export interface Write {
  readonly region: number;
  /** The region's clock, microseconds since 1970. */
  readonly clockMicros: bigint;
  /** The row's new content; null: a delete. */
  readonly content: string | null;
  /** See `hasAuthority`; always false in a table without an owner column. */
  readonly authority: boolean;
  /**
   * The write is stamped above this too; absent: 0n. At a change of key, the highest version of the other key.
   * In a table with owners, always the region's floor: the highest version that a merge has ever replaced by a lower
   * one (one of a higher base). A region's versions of one key only rise by it; else one of them could be given
   * twice, and `seen` could cover a write that nobody has seen.
   */
  readonly above?: Version;
}

/**
 * The state that a local write makes. It outranks `replaced`, whatever the clock says.
 * @param replaced the highest state held of the key, row, tombstone or set aside; null: nothing is held.
 * @throws RangeError if no version is left above `replaced`.
 */
export const write = (replaced: State | null, by: Write): State => {
  const own = replaced === null ? 0n : highest(replaced);
  const above = by.above ?? 0n;
  const version = nextVersion({
    clockMicros: by.clockMicros,
    region: by.region,
    replaced: above > own ? above : own,
  });
  const stamp = {
    base: by.authority ? version : (replaced?.base ?? 0n),
    version,
    prev: replaced?.version ?? 0n,
    seen: seenAfter(replaced, by.region),
  };
  return by.content === null
    ? { kind: "tombstone", ...stamp }
    : { kind: "row", content: by.content, ...stamp };
};
