import { clusterSlug } from "../../regions/topology.ts";
import { aheadOriginName } from "../postgres/install/names.ts";
import { MergeSession } from "./merge-session.ts";
import type { AgentContext } from "./wiring.ts";

/**
 * One more session with the region's database, for a link that is far behind (merge-ahead.ts). One for all links: each has
 * an origin of its own, of which a server has ten, and a server with many peers has no core to spare for each.
 */
export class SpareSession {
  readonly #context: AgentContext;
  #taken = false;

  constructor(context: AgentContext) {
    this.#context = context;
  }

  /** Null: another link has it, or none can be had. */
  async take(): Promise<MergeSession | null> {
    if (this.#taken) return null;
    this.#taken = true;
    const { cluster, region, limits, logger } = this.#context;
    try {
      const session = await MergeSession.open(region.url, {
        applicationName: `coregent ahead > ${region.name}`,
        origin: aheadOriginName(clusterSlug(cluster)),
        connectTimeoutMs: limits.connectTimeoutMs,
        line: region.line,
      });
      if (session.marksOrigin) return session;
      await this.give(session);
    } catch (error) {
      logger.debug({ err: error }, "no second session for a link that is far behind");
      this.#taken = false;
    }
    return null;
  }

  /** It ends: what is far behind is rare. */
  async give(session: MergeSession): Promise<void> {
    await session[Symbol.asyncDispose]();
    this.#taken = false;
  }
}
