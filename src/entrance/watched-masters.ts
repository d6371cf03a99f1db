import { once } from "node:events";
import { chooseMaster, type RegionView } from "../../regions/route.ts";
import type { RandomSource } from "../clock.ts";
import { directLine, type Line } from "../postgres/line.ts";
import type { Masters } from "../write/masters.ts";
import { masterAddress, type EntranceMaster, type EntranceMasters, type MasterState } from "./masters.ts";

export interface WatchedMastersOptions {
  readonly masters: Pick<Masters, "here" | "views" | "find" | "onChange">;
  readonly random: RandomSource;
  /** How the region's master is reached; default: directly. */
  readonly lineTo?: (region: string) => Line;
}

type Listener = (region: string, state: MasterState) => void;

/**
 * The masters of the regional writer, as the entrance wants them: what is nearest by the rules of regions/route.ts, where
 * nobody owns anything, and changes of state as events.
 */
export class WatchedMasters implements EntranceMasters {
  readonly #options: WatchedMastersOptions;
  readonly #listeners = new Set<Listener>();
  #states: ReadonlyMap<string, MasterState> = new Map();

  constructor(options: WatchedMastersOptions) {
    this.#options = options;
  }

  readonly candidates = (): readonly EntranceMaster[] => {
    const { masters, random, lineTo } = this.#options;
    // Whoever is told of a candidate has heard before that it is well again.
    this.look();
    const request = { here: masters.here, owners: [], route: "nearest", failover: "takeover" } as const;
    return chooseMaster({ ...request, chance: random() }, masters.views())
      .filter(({ candidate }) => candidate)
      .flatMap(({ region }) => {
        const url = masters.find(region)?.region.postgres.reveal();
        const line = lineTo?.(region) ?? directLine;
        return url === undefined ? [] : [{ region, ...masterAddress(url), line }];
      });
  };

  readonly watch = (listener: Listener): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  readonly doubt = (region: string): void => this.#options.masters.find(region)?.doubt();

  /** Tells of changes until the signal is aborted. */
  async run(signal: AbortSignal): Promise<void> {
    const forget = this.#options.masters.onChange(() => this.look());
    this.look();
    if (!signal.aborted) await once(signal, "abort");
    forget();
  }

  look(): void {
    const before = this.#states;
    const states = new Map(this.#options.masters.views().map((view) => [view.name, stateOf(view)]));
    // A region that has left takes no sessions, and has no reason to keep any.
    for (const name of before.keys()) if (!states.has(name)) states.set(name, "down");
    this.#states = states;
    for (const [name, state] of states) {
      if (state === (before.get(name) ?? "up")) continue;
      for (const listener of this.#listeners) listener(name, state);
    }
  }
}

const stateOf = ({ health, drained, fenced }: RegionView): MasterState => {
  if (health === "down") return "down";
  return drained || fenced !== null ? "draining" : "up";
};
