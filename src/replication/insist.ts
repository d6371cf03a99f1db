import { reactionTo } from "../postgres/sqlstate.ts";
import type { MergeSession } from "./merge-session.ts";
import type { LinkStatus } from "./status.ts";
import { type AgentContext, pause } from "./wiring.ts";

/** Work that meets the locks of local writers yields, and is tried again so often before its error goes up. */
const maxYields = 8;

export interface InsistParts {
  readonly context: AgentContext;
  readonly session: MergeSession;
  readonly status: LinkStatus;
}

/**
 * Does what is wholly in memory until it is done: again a little later where it yielded to a local writer, and
 * once more `careful`, row by row if need be, where a row does not fit. What failed is rolled back.
 */
export const insist = async <T>(
  { context, session, status }: InsistParts,
  signal: AbortSignal,
  work: (careful: boolean) => Promise<T>,
): Promise<T> => {
  let careful = false;
  for (let yields = 0; ;) {
    try {
      return await work(careful);
    } catch (error) {
      await session.rollback();
      const reaction = reactionTo(error, "merge");
      status.errors.set(reaction, (status.errors.get(reaction) ?? 0) + 1);
      if (reaction === "quarantine" && !careful) {
        careful = true;
      } else if (reaction === "retry" && yields < maxYields && !signal.aborted) {
        yields += 1;
        await pause(context.clock, 5 * 2 ** yields * (0.5 + context.random()), signal);
      } else {
        throw error;
      }
    }
  }
};
