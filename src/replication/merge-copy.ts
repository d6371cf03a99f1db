import { reactionTo } from "../postgres/sqlstate.ts";
import { identifier } from "../postgres/identifiers.ts";
import type { MergeSession } from "./merge-session.ts";
import { relationOf } from "./merge-sql.ts";
import { sessionMemory } from "./session-memory.ts";
import type { StateSet } from "./states.ts";
import { together } from "./together.ts";

/** How many sets in a row are not tried at most, where keys are there more often than not. */
const maxSkipped = 64;

interface Trials {
  /** Sets that are not to be tried. */
  skip: number;
  /** As many as were skipped after the last failure. */
  skipped: number;
}

/** By relation: whether COPY is worth a try. */
const trialsOf = sessionMemory<Trials>();

const trialsIn = (session: MergeSession, relation: string): Trials => {
  const byRelation = trialsOf(session);
  const trials = byRelation.get(relation) ?? { skip: 0, skipped: 0 };
  byRelation.set(relation, trials);
  return trials;
};

/** Builds what `copyStates` will send, if it will. */
export const prepareCopy = (session: MergeSession, set: StateSet): void => {
  if (set.format === "binary" && trialsIn(session, relationOf(set.table, set.kind)).skip === 0)
    set.copyData();
};

/**
 * Inserts states of new keys by COPY, which takes half the server's time of an upsert: nothing is asked of the key
 * beforehand. It inserts all of them or, where a key is there or a row does not fit, none. What is to be asked once they
 * are there, `settle`, is sent along, so that the server does not wait for us in between; where they are not, it fails,
 * and is to have done nothing. Nothing else may be asked of the session meanwhile.
 */
export const copyStates = async (
  session: MergeSession,
  set: StateSet,
  settle: () => Promise<void>,
): Promise<boolean> => {
  if (set.format !== "binary") return false;
  const relation = relationOf(set.table, set.kind);
  const trials = trialsIn(session, relation);
  if (trials.skip > 0) {
    trials.skip -= 1;
    return false;
  }
  const columns = set.columns.map((column) => identifier(column.name)).join(", ");
  const { client } = session;
  let inserted = false;
  try {
    await together([
      client.query("SAVEPOINT copied"),
      session.copyIn(`COPY ${relation} (${columns}) FROM STDIN (FORMAT binary)`, set.copyData()),
      client.query("RELEASE SAVEPOINT copied").then(() => (inserted = true)),
      settle(),
    ]);
    trials.skipped = 0;
    return true;
  } catch (error) {
    if (inserted || reactionTo(error, "merge") !== "quarantine") throw error;
    await together([client.query("ROLLBACK TO SAVEPOINT copied"), client.query("RELEASE SAVEPOINT copied")]);
    trials.skipped = Math.min(maxSkipped, Math.max(1, trials.skipped * 2));
    trials.skip = trials.skipped;
    return false;
  }
};
