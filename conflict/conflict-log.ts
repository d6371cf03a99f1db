import { conflictType, succeeded, type ConflictType } from "./classify.ts";
import { compareStates, type State } from "./state.ts";
import { regionOf, type Version } from "./version.ts";

/**
 * The conflict log: reports of writes that were overruled by a write which had not seen them.
 *
 * A region reports a loser when it merges two states neither of which succeeded the other. It retracts a report when
 * it turns out that what stays descends from the loser after all (a descendant arrived after a rival). What must
 * hold when all regions have merged all changes, with F the state that stays of a key:
 *
 *   L1  every write that nothing was written upon, but F, is in the log; so every write that is not an ancestor of F
 *       is in the log, or is the ancestor of one that is.
 *   L2  no ancestor of F is in the log.
 *
 * `seen` alone cannot give both. It says that the chain of a state holds a write v of region x, and so nothing sure of
 * an earlier write L of x: x may have written v upon L (an ancestor), or upon a rival that had overruled L (not one).
 * Only x knows, at the moment at which something is merged upon L there: x's last write is still L, so a state
 * descends from L if and only if its `seen` holds exactly L. Hence:
 *
 *   - Reports are kept per loser AND reporting region, and only the reporting region retracts them. So every
 *     report has one writer, and a region that guesses cannot withdraw what the region that knows has reported.
 *   - Of its own writes a region reports those that it holds and a merge overrules (not those which come back from
 *     a peer: they were judged here before), and retracts one by equality. This alone gives L1 and L2.
 *   - Of other regions' writes it reports each that loses before its eyes, and retracts one as soon as it merges
 *     a state whose `seen` is not lower: an insurance, should the loser's region be lost before it has reported.
 *   - Retraction is judged at every merge that replaces the state held, whether or not that merge is a conflict: the
 *     descendant may have seen the rival, and then no conflict meets the eye.
 */
export interface Report {
  readonly loser: State;
  readonly winner: State;
  readonly type: ConflictType;
  /** The region that reports. With table, key and the loser's version: the report's key. */
  readonly detectedIn: number;
}

/** What merging one state into what a region holds of the key comes to. */
export interface Merged {
  /** The join. */
  readonly held: State;
  /** False: what was held stays, and nothing is written. */
  readonly replaces: boolean;
  /** To be added to the log, unless this region has reported this loser before: the report stands, or was retracted. */
  readonly report: Report | null;
  /** The region's floor (`Write.above`) must not be lower from now on; 0n: no demand. */
  readonly floor: Version;
}

/** Merges `incoming` into what `region` holds of its key. */
export const merge = (held: State | null, incoming: State, region: number): Merged => {
  const stays = { replaces: false, floor: 0n };
  if (held === null) return { ...stays, held: incoming, replaces: true, report: null };
  const order = compareStates(incoming, held);
  if (order === 0) return { ...stays, held, report: null };
  if (order < 0)
    return {
      ...stays,
      held,
      report: isOwn(incoming.version, region) ? null : reportOf(incoming, held, region),
    };
  // By its base, a state of a lower version can win. What is written upon it must not take a version again that this
  // region has given to the key before.
  const floor = held.version > incoming.version ? held.version : 0n;
  return { held: incoming, replaces: true, report: reportOf(held, incoming, region), floor };
};

/**
 * Whether a region's own report of `loser` on a key is retracted when it merges `incoming` and that replaces what it
 * held of the key.
 */
export const retracts = (
  loser: Version,
  incoming: Pick<State, "version" | "seen">,
  region: number,
): boolean => (isOwn(loser, region) ? (incoming.seen ?? []).includes(loser) : succeeded(loser, incoming));

const isOwn = (version: Version, region: number): boolean => regionOf(version) === region;

const reportOf = (loser: State, winner: State, detectedIn: number): Report | null => {
  if (succeeded(loser.version, winner)) return null;
  const type = conflictType(loser, winner);
  if (type === "insert_exists" && sameContent(loser, winner)) return null;
  return { loser, winner, type, detectedIn };
};

/** Rows that were there in several regions before they were joined, or are written by each: nothing is lost. */
const sameContent = (a: State, b: State): boolean =>
  a.kind === "row" && b.kind === "row" && a.content === b.content;
