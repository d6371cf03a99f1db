import type { Logger } from "pino";
import { type ClockVerdict, judgeClocks } from "../../regions/clocks.ts";
import type { RegionView } from "../../regions/route.ts";
import type { Region, Topology } from "../../regions/topology.ts";
import type { Clock } from "../clock.ts";
import type { Line } from "../postgres/line.ts";
import { Master } from "./master.ts";
import type { QuietSpan } from "./position.ts";
import { Positions } from "./positions.ts";

export interface MastersOptions {
  /** The region of this endpoint. */
  readonly here: string;
  /** As it is at the moment of the call: regions that join or leave are taken up. */
  readonly topology: () => Topology;
  readonly clock: Clock;
  readonly logger: Logger;
  /** How a region's master is reached; default: directly. */
  readonly lineTo?: (region: string) => Line;
  /** What this process knows of a region's quiet (position.ts); null: nothing. */
  readonly quietOf?: (origin: number) => QuietSpan | null;
}

const followMs = 600;

/** A region's clock that is odd: how, for people. */
export interface OddClock {
  readonly verdict: Exclude<ClockVerdict, "fine">;
  readonly text: string;
}

/** The masters of all regions, as the writer of one region sees them. */
export class Masters {
  readonly here: string;
  /** What each of them has. */
  readonly positions: Positions;
  readonly #options: MastersOptions;
  readonly #masters = new Map<string, { readonly master: Master; readonly leave: AbortController }>();
  readonly #running = new Set<Promise<void>>();
  readonly #stopped = new AbortController();
  readonly #onChange = new Set<() => void>();
  #oddClocks: ReadonlyMap<string, OddClock> = new Map();

  constructor(options: MastersOptions) {
    this.here = options.here;
    this.#options = options;
    this.positions = new Positions({
      clock: options.clock,
      members: () => this.#members(),
      quietOf: options.quietOf ?? (() => null),
    });
    this.#follow();
  }

  /** Follows the topology and judges the clocks, until the signal is aborted; the masters probe by themselves. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    while (!signal.aborted) {
      this.#follow();
      this.#judgeClocks();
      await clock.beat(followMs, signal);
    }
  }

  /** Ends all probes and sessions. To be called when no request is under way: those that are fail. */
  async close(): Promise<void> {
    this.#stopped.abort();
    await Promise.all([...this.#masters.values()].map(({ master }) => master.connections.close()));
    await Promise.all(this.#running);
  }

  get all(): readonly Master[] {
    return [...this.#masters.values()].map(({ master }) => master);
  }

  /** Called when a region has left, is down, drained or fenced, or is so no longer. @returns what ends that */
  onChange(changed: () => void): () => void {
    this.#onChange.add(changed);
    return () => this.#onChange.delete(changed);
  }

  /** Never throws: whoever tells goes on probing, whatever becomes of those who hear it. */
  #tell(): void {
    for (const changed of this.#onChange) {
      try {
        changed();
      } catch (err) {
        this.#options.logger.error({ err }, "what follows the masters' states has failed");
      }
    }
  }

  find(region: string): Master | undefined {
    return this.#masters.get(region)?.master;
  }

  /** What is known of every region now: what the rules in regions/ choose from. */
  views(): readonly RegionView[] {
    return this.all.map((master) => this.#viewOf(master));
  }

  /** Of this endpoint's own region; null: it is not in the configuration any more. */
  get home(): RegionView | null {
    const master = this.find(this.here);
    return master === undefined ? null : this.#viewOf(master);
  }

  #viewOf(master: Master): RegionView {
    const { name, latitude, longitude } = master.region;
    const { health, reason } = master.health;
    const load = master.load();
    const clock = this.#oddClocks.get(name);
    return {
      name,
      latitude,
      longitude,
      health,
      healthReason: reason,
      share: load.share,
      loadReason: load.reason,
      drained: master.drained,
      fenced: clock?.verdict === "fence" ? clock.text : null,
      roundTripMs: master.roundTripMs,
    };
  }

  /** Regions whose clocks are odd, by name. */
  get oddClocks(): ReadonlyMap<string, OddClock> {
    return this.#oddClocks;
  }

  #members(): ReadonlySet<number> {
    return new Set(this.#options.topology().regions.map(({ id }) => id));
  }

  #follow(): void {
    const { regions } = this.#options.topology();
    for (const region of regions) {
      if (!this.#masters.has(region.name)) this.#join(region);
    }
    for (const [name, { master, leave }] of this.#masters) {
      if (regions.some((region) => region.name === name)) continue;
      this.#masters.delete(name);
      leave.abort();
      this.positions.remove(master.region.id);
      master.connections.close().catch(() => undefined);
      this.#tell();
    }
  }

  #join(first: Region): void {
    const { topology, clock, logger } = this.#options;
    let latest = first;
    const master = new Master({
      cluster: topology().cluster,
      members: () => this.#members(),
      pulse: () => this.positions.pulse(first.id),
      changed: () => this.#tell(),
      region: () => {
        latest = topology().regions.find(({ name }) => name === first.name) ?? latest;
        return latest;
      },
      settings: () => topology().writer,
      line: this.#options.lineTo?.(first.name),
      clock,
      logger,
    });
    const leave = new AbortController();
    this.#masters.set(first.name, { master, leave });
    this.positions.add(first.id, master);
    const running = master.run(AbortSignal.any([leave.signal, this.#stopped.signal])).finally(() => {
      this.#running.delete(running);
    });
    this.#running.add(running);
  }

  #judgeClocks(): void {
    const { topology, logger } = this.#options;
    const readings = this.all.flatMap(({ clockReading }) => clockReading ?? []);
    const odd = new Map<string, OddClock>();
    for (const { region, verdict, apartMs } of judgeClocks(readings, topology().writer)) {
      if (verdict === "fine") continue;
      const text = `its clock is ${durationText(Math.abs(apartMs))} ${apartMs > 0 ? "ahead of" : "behind"} the others'`;
      odd.set(region, { verdict, text });
      if (this.#oddClocks.get(region)?.verdict !== verdict) {
        logger.warn({ region, verdict, apartMs: Math.round(apartMs) }, `${region}: ${text}`);
      }
    }
    const before = this.#oddClocks;
    this.#oddClocks = odd;
    const fenced = (clocks: ReadonlyMap<string, OddClock>): string =>
      [...clocks].flatMap(([region, { verdict }]) => (verdict === "fence" ? [region] : [])).join();
    if (fenced(odd) !== fenced(before)) this.#tell();
  }
}

const durationText = (ms: number): string => {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  return ms < 100_000 ? `${(ms / 1_000).toFixed(1)} s` : `${Math.round(ms / 60_000)} min`;
};
