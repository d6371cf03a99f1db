import type { State } from "./state.ts";
import { regionOf, type Version } from "./version.ts";

/** The conflict types that two states of one key can have, by PostgreSQL 18's names. */
export type ConflictType = "insert_exists" | "update_origin_differs" | "update_deleted" | "delete_missing";

/**
 * Whether the loser needs no report where it meets the winner: the winner was written upon it, or upon a later write
 * of the loser's region. In the second case the winner may not descend from the loser: then the loser was overruled
 * in its own region before that later write, and is reported there (conflict-log.ts).
 * @returns false: they were written without knowledge of each other, which is a conflict
 */
export const succeeded = (loser: Version, winner: Pick<State, "version" | "seen">): boolean =>
  regionOf(loser) === regionOf(winner.version) ||
  (winner.seen ?? []).some((seen) => regionOf(seen) === regionOf(loser) && seen >= loser);

/** The type of a conflict between two states of one key; it is the same whichever wins. */
export const conflictType = (
  loser: Pick<State, "kind" | "prev">,
  winner: Pick<State, "kind" | "prev">,
): ConflictType => {
  if (loser.kind !== winner.kind) return "update_deleted";
  if (loser.kind === "tombstone") return "delete_missing";
  return loser.prev === 0n && winner.prev === 0n ? "insert_exists" : "update_origin_differs";
};
