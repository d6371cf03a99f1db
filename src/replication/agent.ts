import { type AgentLock, tryAgentLock } from "../postgres/agent-lock.ts";
import { reactionTo } from "../postgres/sqlstate.ts";
import { LinkSet } from "./link-set.ts";
import { observeRegion } from "./observe.ts";
import { runQuarantine } from "./quarantine-loop.ts";
import { SpareMemory } from "./spare-memory.ts";
import { startSweeper } from "./sweep-loop.ts";
import { type AgentContext, pause } from "./wiring.ts";

const lockRetryMs = 1000;

/**
 * The agent of one region, until `signal` is aborted. Its modes (`AgentStatus.role`):
 * - starting, standby: another agent holds the region's lock, or the region's database is away; tried every second.
 * - active: it holds the lock and runs a link for each peer, the sweeper, the quarantine and the observer. One that
 *   fails does not stop the others. When the lock's session ends, all of them end at once.
 * - stopping: what is being merged is finished and confirmed, then the sessions end.
 *
 * Rejects only for what no retry can mend, such as a wrong password.
 */
export const runAgent = async (context: AgentContext, signal: AbortSignal): Promise<void> => {
  const { status, logger, limits } = context;
  // As much as one link may hold, the batches in work, and what is sent of them.
  const memory = new SpareMemory(8 * limits.maxBatchBytes);
  while (!signal.aborted) {
    const lock = await takeLock(context);
    if (lock === null) {
      memory.tidy(context.clock.monotonic());
      await pause(context.clock, lockRetryMs, signal);
      continue;
    }
    await using held = lock;
    status.role = "active";
    logger.info("this agent works for the region");
    const stopping = (): void => {
      status.role = "stopping";
    };
    signal.addEventListener("abort", stopping, { once: true });
    await serve(context, memory, AbortSignal.any([signal, held.lost]));
    signal.removeEventListener("abort", stopping);
    if (!signal.aborted) {
      status.role = "standby";
      logger.warn("the session with the region's database is lost; starting again");
    }
  }
};

const takeLock = async ({ region, status, logger }: AgentContext): Promise<AgentLock | null> => {
  try {
    const lock = await tryAgentLock(region.url, region.name, region.line);
    if (lock === null && status.role !== "standby") {
      status.role = "standby";
      logger.info("standby: another agent works for the region");
    }
    return lock;
  } catch (error) {
    if (reactionTo(error, "session") === "stop") {
      throw error;
    }
    logger.warn({ err: error }, "the region's own database cannot be reached; trying again");
    return null;
  }
};

const serve = async (context: AgentContext, memory: SpareMemory, ended: AbortSignal): Promise<void> => {
  const sweeping = startSweeper(context, ended);
  const links = new LinkSet(context, { sweeper: sweeping.sweeper, memory }, ended);
  await Promise.all([
    links.run(),
    sweeping.done,
    runQuarantine(context, ended),
    observeRegion(context, (peerId) => links.copyWanted(peerId), ended),
  ]);
};
