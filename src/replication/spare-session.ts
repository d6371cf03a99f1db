import { clusterSlug } from "../../regions/topology.ts";
import { aheadOriginName } from "../postgres/install/names.ts";
import { evictHolders, MergeSession } from "./merge-session.ts";
import { type AgentContext, pause } from "./wiring.ts";

/** A server that is gone without a word does not answer. */
const giveMs = 1_000;

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
        applicationName: this.#applicationName,
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

  /** It ends, and its origin with it, which would hold one of the server's places: what is far behind is rare. */
  async give(session: MergeSession): Promise<void> {
    const { clock } = this.#context;
    const done = new AbortController();
    const dropped = session
      .rollback()
      .then(() => session.dropOrigin())
      .catch(() => undefined);
    await Promise.race([dropped, pause(clock, giveMs, done.signal)]);
    done.abort();
    await session[Symbol.asyncDispose]();
    this.#taken = false;
  }

  /** Ends what is left of one in the server, with its locks, where the network or an agent died without a word. */
  async evictLeftOver({ client }: MergeSession): Promise<void> {
    if (!this.#taken) await evictHolders(client, this.#applicationName);
  }

  get #applicationName(): string {
    return `coregent ahead > ${this.#context.region.name}`;
  }
}
