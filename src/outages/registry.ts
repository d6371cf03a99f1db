import type { Logger } from "pino";
import { describeOutage, lineCondition, type Outage, type OutageSpec } from "../../regions/outages.ts";
import type { Clock, RandomSource } from "../clock.ts";
import type { Line } from "../postgres/line.ts";
import { SimulatedLine } from "./simulated-line.ts";

export interface OutageRegistryOptions {
  /** The region whose agent this is. */
  readonly here: string;
  readonly clock: Clock;
  readonly random: RandomSource;
  readonly logger: Logger;
}

export interface OutageStart {
  readonly id: string;
  readonly spec: OutageSpec;
  /** null: until it is healed. */
  readonly forMs: number | null;
}

export const maxOutages = 64;
export const maxOutageMs = 24 * 3_600_000;

/** There are too many outages already. */
export class TooManyOutages extends Error {
  constructor() {
    super(`${maxOutages} outages are simulated already: heal some first`);
  }
}

/**
 * The outages that this agent simulates, by cutting and slowing its own connections. They live in its memory: each ends at
 * its time whatever becomes of the one who asked for it, and all end with the process.
 */
export class OutageRegistry implements AsyncDisposable {
  readonly #options: OutageRegistryOptions;
  readonly #outages = new Map<string, { readonly outage: Outage; readonly healed: AbortController }>();
  readonly #lines = new Map<string, SimulatedLine>();

  constructor(options: OutageRegistryOptions) {
    this.#options = options;
  }

  /** The line to the master of a region. */
  lineTo(region: string): Line {
    let line = this.#lines.get(region);
    if (line === undefined) {
      line = new SimulatedLine({ target: region, random: this.#options.random });
      line.apply(lineCondition(this.list(), this.#options.here, region));
      this.#lines.set(region, line);
    }
    return line;
  }

  list(): readonly Outage[] {
    return [...this.#outages.values()].map(({ outage }) => outage);
  }

  /**
   * Begins an outage. One of that id that is there already is replaced: the same request may come twice.
   * @throws TooManyOutages
   */
  start({ id, spec, forMs }: OutageStart): Outage {
    const { clock, logger } = this.#options;
    if (!this.#outages.has(id) && this.#outages.size >= maxOutages) {
      throw new TooManyOutages();
    }
    this.#forget(id);
    const now = clock.now();
    const outage = { id, spec, startedAtMs: now, endsAtMs: forMs === null ? null : now + forMs };
    const healed = new AbortController();
    this.#outages.set(id, { outage, healed });
    if (forMs !== null) {
      void clock.sleep(forMs, healed.signal).then(
        () => this.heal(id),
        () => undefined,
      );
    }
    logger.warn({ outage: id, for: forMs }, `simulated outage: ${describeOutage(spec)}`);
    this.#apply();
    return outage;
  }

  /** False: there is none of that id. */
  heal(id: string): boolean {
    const healed = this.#forget(id);
    if (healed) {
      this.#options.logger.warn({ outage: id }, "simulated outage: healed");
      this.#apply();
    }
    return healed;
  }

  /** How many there were. */
  healAll(): number {
    const ids = [...this.#outages.keys()];
    for (const id of ids) {
      this.heal(id);
    }
    return ids.length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const id of this.#outages.keys()) {
      this.#forget(id);
    }
    for (const line of this.#lines.values()) {
      await line[Symbol.asyncDispose]();
    }
  }

  #forget(id: string): boolean {
    this.#outages.get(id)?.healed.abort();
    return this.#outages.delete(id);
  }

  #apply(): void {
    const outages = this.list();
    for (const [region, line] of this.#lines) {
      line.apply(lineCondition(outages, this.#options.here, region));
    }
  }
}
