import { setImmediate } from "node:timers/promises";
import type { Clock } from "../clock.ts";
import { Coalesced } from "./coalesced.ts";
import { Incarnations } from "./incarnations.ts";
import {
  type Database,
  type Knowledge,
  lacking,
  pastQuiet,
  type Position,
  type QuietSpan,
  readPosition,
} from "./position.ts";
import { Pulses } from "./pulse.ts";
import type { OriginPosition, SessionToken } from "./session-token.ts";

export interface PositionLimits {
  /** How often a master is asked while somebody waits for it. */
  readonly pollMs: number;
  /** A region that is waited for so long is asked for a pulse. */
  readonly pulseAfterMs: number;
  /** Requests that wait for one master; the next is refused. */
  readonly maxWaiting: number;
}

export const defaultPositionLimits: PositionLimits = { pollMs: 10, pulseAfterMs: 100, maxWaiting: 1_000 };

export interface PositionsOptions {
  readonly clock: Clock;
  /** Ids of the regions in the configuration, as it is now. */
  readonly members: () => ReadonlySet<number>;
  /** What this process knows of a region's quiet, from its link with it; null: nothing. */
  readonly quietOf: (origin: number) => QuietSpan | null;
  readonly limits?: Partial<PositionLimits>;
}

/** Too many requests wait for this master already. */
export class TooManyWaiting extends Error {
  override readonly name = "TooManyWaiting";
}

/**
 * What every master has, as this process sees it. However many requests ask, there is one question at a time under way to
 * each master.
 */
export class Positions {
  readonly #options: PositionsOptions;
  readonly #masters = new Map<number, MasterPosition>();
  readonly #incarnations = new Incarnations();
  readonly #pulses: Pulses;

  constructor(options: PositionsOptions) {
    this.#options = options;
    this.#pulses = new Pulses(options.clock);
  }

  /** To be called when the master of a region is known, and again when it is reached in another way. */
  add(region: number, database: Database): MasterPosition {
    const master = new MasterPosition(database, {
      ...this.#options,
      limits: { ...defaultPositionLimits, ...this.#options.limits },
      knowledge: () => this.knowledge,
      learnt: (position) => this.#incarnations.learn(position.region, position.own.incarnation),
      pulse: (origin) => this.#pulses.ask(origin),
      doubt: (seen) => this.#doubt(seen),
    });
    this.#masters.set(region, master);
    this.#pulses.set(region, database);
    return master;
  }

  remove(region: number): void {
    this.#masters.delete(region);
    this.#pulses.set(region, null);
  }

  /** Null for a region that was not added. */
  of(region: number): MasterPosition | null {
    return this.#masters.get(region) ?? null;
  }

  /** A region writes something small that reaches all the others, if it has not just done so. */
  pulse(region: number): void {
    this.#pulses.ask(region);
  }

  get knowledge(): Knowledge {
    const { current: incarnations, superseded } = this.#incarnations;
    return { members: this.#options.members(), incarnations, superseded };
  }

  /** A token names a database that is not the one merged: only its region tells which of the two is the older. */
  #doubt({ origin, incarnation }: OriginPosition): void {
    const master = this.#masters.get(origin);
    const now = this.#options.clock.monotonic();
    if (master === undefined || !this.#incarnations.doubt(origin, incarnation, now)) return;
    master
      .now()
      .then(({ own }) => this.#incarnations.settle(origin, incarnation, own.incarnation))
      .catch(() => undefined);
  }
}

interface MasterOptions {
  readonly clock: Clock;
  readonly limits: PositionLimits;
  readonly quietOf: (origin: number) => QuietSpan | null;
  readonly knowledge: () => Knowledge;
  readonly learnt: (position: Position) => void;
  readonly pulse: (origin: number) => void;
  readonly doubt: (seen: OriginPosition) => void;
}

export interface Awaited {
  readonly token: SessionToken;
  /** What will be read, as `schema.table`; tables that do not fit here are not waited for. */
  readonly tables?: readonly string[];
  readonly waitMs: number;
  readonly signal: AbortSignal;
}

interface Waiter extends Awaited {
  readonly sinceMs: number;
  readonly resolve: (position: Position | null) => void;
  readonly reject: (error: unknown) => void;
}

/** The position of one master. */
export class MasterPosition {
  readonly #options: MasterOptions;
  readonly #reading: Coalesced<Position>;
  readonly #waiting = new Set<Waiter>();
  #polling = false;

  constructor(database: Database, options: MasterOptions) {
    this.#options = options;
    this.#reading = new Coalesced(async () => {
      const position = await readPosition(database);
      options.learnt(position);
      return position;
    }, setImmediate);
  }

  /**
   * The position at some moment after the call: a request that has read before may claim it as seen. Callers share.
   * @throws what the driver throws
   */
  now(): Promise<Position> {
    return this.#reading.next();
  }

  /**
   * Waits until whoever reads here sees all that the token's bearer has seen; null: not within `waitMs`.
   * @throws TooManyWaiting, the signal's reason, or what the driver throws, at once: other masters may have it
   */
  async waitFor(awaited: Awaited): Promise<Position | null> {
    awaited.signal.throwIfAborted();
    const first = await this.now();
    if (this.#lacking(first, awaited).length === 0) return first;
    if (awaited.waitMs <= 0) return null;
    const { clock, limits } = this.#options;
    if (this.#waiting.size >= limits.maxWaiting) {
      throw new TooManyWaiting(`${limits.maxWaiting} requests wait for this region already`);
    }
    const { promise, resolve, reject } = Promise.withResolvers<Position | null>();
    const waiter = { ...awaited, sinceMs: clock.monotonic(), resolve, reject };
    const ended = new AbortController();
    const signal = AbortSignal.any([awaited.signal, ended.signal]);
    void clock.sleep(awaited.waitMs, signal).then(() => resolve(null), reject);
    this.#waiting.add(waiter);
    void this.#poll();
    try {
      return await promise;
    } finally {
      this.#waiting.delete(waiter);
      ended.abort();
    }
  }

  #lacking(position: Position, { token, tables = [] }: Awaited): readonly number[] {
    const { knowledge, quietOf, doubt } = this.#options;
    const missing = lacking(pastQuiet(position, quietOf), token, { ...knowledge(), tables });
    for (const seen of missing) {
      const merged = position.merged.get(seen.origin);
      if (merged !== undefined && merged.incarnation !== seen.incarnation) doubt(seen);
    }
    return missing.map(({ origin }) => origin);
  }

  /** One loop for all who wait, while there are any. Never rejects. */
  async #poll(): Promise<void> {
    if (this.#polling) return;
    this.#polling = true;
    const { clock, limits } = this.#options;
    try {
      while (this.#waiting.size > 0) {
        await clock.sleep(limits.pollMs);
        if (this.#waiting.size > 0) this.#judge(await this.now());
      }
    } catch (error) {
      for (const { reject } of this.#waiting) reject(error);
    } finally {
      this.#polling = false;
    }
  }

  #judge(position: Position): void {
    const { clock, limits, pulse } = this.#options;
    for (const waiter of this.#waiting) {
      const missing = this.#lacking(position, waiter);
      if (missing.length === 0) waiter.resolve(position);
      else if (clock.monotonic() - waiter.sinceMs >= limits.pulseAfterMs) missing.forEach(pulse);
    }
  }
}
