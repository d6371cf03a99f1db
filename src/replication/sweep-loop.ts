import { readTables } from "../postgres/catalog.ts";
import { MergeSession } from "./merge-session.ts";
import { Sweeper } from "./sweeper.ts";
import { type AgentContext, pause } from "./wiring.ts";

const roundMs = 100;
const retryMs = 1000;

export interface Sweeping {
  /** The links hand their merged tombstones over to it. */
  readonly sweeper: Sweeper;
  /** Resolves when the signal is aborted; never rejects. */
  readonly done: Promise<void>;
}

/** Runs the sweeper until the signal is aborted. At first every table is swept whole: see Sweeper.addTable. */
export const startSweeper = (context: AgentContext, signal: AbortSignal): Sweeping => {
  const sweeper = new Sweeper();
  return { sweeper, done: run(context, sweeper, signal) };
};

const run = async (context: AgentContext, sweeper: Sweeper, signal: AbortSignal): Promise<void> => {
  const { region, clock, logger } = context;
  let begun = false;
  while (!signal.aborted) {
    try {
      await using session = await MergeSession.open(region.url, {
        applicationName: `coregent sweep ${region.name}`,
        origin: null,
        line: region.line,
      });
      if (!begun) {
        for (const table of await readTables(session.client)) {
          sweeper.addTable(table);
        }
        begun = true;
      }
      while (!signal.aborted) {
        const { error, rowsSwept } = await sweeper.round(session);
        if (error !== null) {
          logger.warn({ err: error }, "a sweep has failed; it is tried again");
        }
        if (rowsSwept > 0) {
          logger.debug({ rowsSwept }, "rows removed that a tombstone outranks");
        }
        await pause(clock, error === null ? roundMs : retryMs, signal);
        await sweeper.wanted(signal);
      }
    } catch (error) {
      logger.debug({ err: error }, "the sweeper has lost its session");
      await pause(clock, retryMs, signal);
    }
  }
};
