import type { Topology } from "../regions/topology.ts";
import type { Clock } from "./clock.ts";

const checkMs = 900;

/**
 * The configuration as it is now: it is looked at again and again, and read when it has changed, so that an agent learns
 * of a region that joins or leaves without a restart. While the file is broken, what was read before holds.
 */
export class TopologyWatch {
  readonly #load: () => Promise<Topology>;
  #current: Topology;

  constructor(initial: Topology, load: () => Promise<Topology>) {
    this.#current = initial;
    this.#load = load;
  }

  get current(): Topology {
    return this.#current;
  }

  /** Until the signal is aborted; `onBroken` is told once for each new reason why the file cannot be used. */
  async run(clock: Clock, onBroken: (reason: string) => void, signal: AbortSignal): Promise<void> {
    let reported: string | null = null;
    while (!signal.aborted) {
      await clock.beat(checkMs, signal);
      try {
        this.#current = await this.#load();
        reported = null;
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        if (reason !== reported) {
          onBroken(reason);
          reported = reason;
        }
      }
    }
  }
}
