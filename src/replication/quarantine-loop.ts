import { clusterSlug } from "../../regions/topology.ts";
import { readTables } from "../postgres/catalog.ts";
import { quarantineOriginName } from "../postgres/install/names.ts";
import { MergeSession } from "./merge-session.ts";
import { retryQuarantined } from "./quarantine-retry.ts";
import type { AgentContext } from "./wiring.ts";

const roundMs = 900;
const limits = { maxEntries: 100, firstMs: 1000, maxMs: 300_000 };

/** Tries rows in quarantine again, each with a backoff, until the signal is aborted. Never rejects. */
export const runQuarantine = async (context: AgentContext, signal: AbortSignal): Promise<void> => {
  const { region, clock, logger } = context;
  while (!signal.aborted) {
    await clock.beat(roundMs, signal);
    // No session is held for what is nearly always empty; the observer counts the entries.
    if (signal.aborted || context.status.quarantined.size === 0) {
      continue;
    }
    try {
      await using session = await MergeSession.open(region.url, {
        applicationName: `coregent quarantine ${region.name}`,
        // The rows are not ours.
        origin: quarantineOriginName(clusterSlug(context.cluster)),
        line: region.line,
      });
      const tables = await readTables(session.client);
      const { tried, settled } = await retryQuarantined(session, tables, {
        ...limits,
        now: new Date(clock.now()),
      });
      if (tried > 0) {
        logger.info({ tried, settled }, "rows in quarantine were tried again");
      }
    } catch (error) {
      logger.warn({ err: error }, "rows in quarantine could not be tried again");
    }
  }
};
