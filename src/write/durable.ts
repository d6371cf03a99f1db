import { slotName } from "../postgres/install/names.ts";
import { clusterSlug } from "../../regions/topology.ts";
import type { Clock } from "../clock.ts";
import { Coalesced } from "./coalesced.ts";
import type { Database } from "./position.ts";

/** A peer's slot at the master. */
export interface SlotPosition {
  /** Id of the region that reads it. */
  readonly region: number;
  /** All that the master had written before is durable there. */
  readonly confirmed: bigint;
  /** Where the server would have to begin to read; of a slot that was just made, where it was made. */
  readonly restart: bigint;
}

/**
 * The regions in which what was committed before `lsn` is durable, judged as slots are seen again and again. The slot of a
 * region that joins, or has to copy all states anew, starts out as if everything before had been confirmed, and stays so until
 * they are copied. So a slot counts only if it was there before the commit, which its restart position tells, or has been
 * seen to advance: what is confirmed then is durable together with all before it.
 */
export class Durability {
  readonly #lsn: bigint;
  /** Where each slot was seen first. */
  readonly #first = new Map<number, bigint>();
  /** Those that were there when slots were first looked at, and not in the making. */
  #early: ReadonlySet<number> | null = null;
  readonly #durable = new Set<number>();

  constructor(lsn: bigint) {
    this.#lsn = lsn;
  }

  get regions(): ReadonlySet<number> {
    return this.#durable;
  }

  see(slots: readonly SlotPosition[]): ReadonlySet<number> {
    this.#early ??= new Set(slots.map(({ region }) => region));
    for (const { region, confirmed, restart } of slots) {
      const first = this.#first.get(region) ?? confirmed;
      this.#first.set(region, first);
      const before = restart < this.#lsn && this.#early.has(region);
      if (confirmed >= this.#lsn && (before || confirmed > first)) this.#durable.add(region);
    }
    return this.#durable;
  }
}

export interface DurableLimits {
  readonly pollMs: number;
  /** A commit that has waited so long has the master write a pulse after it. */
  readonly pulseAfterMs: number;
  readonly maxWaiting: number;
}

export const defaultDurableLimits: DurableLimits = { pollMs: 20, pulseAfterMs: 250, maxWaiting: 1_000 };

export interface DurableOptions {
  readonly cluster: string;
  /** Id of the region whose master this is. */
  readonly region: number;
  readonly clock: Clock;
  readonly members: () => ReadonlySet<number>;
  /** Has this master write a pulse, see pulse.ts. */
  readonly pulse: () => void;
  readonly limits?: Partial<DurableLimits>;
}

export interface AwaitedDurability {
  /** `Position.committed` of the commit. */
  readonly lsn: bigint;
  /** In so many further regions. */
  readonly regions: number;
  readonly waitMs: number;
  readonly signal: AbortSignal;
}

interface Waiter extends AwaitedDurability {
  readonly durability: Durability;
  readonly sinceMs: number;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** Watches the peers' slots at one master, for all who wait for their commits there. */
export class SlotWatch {
  readonly #options: DurableOptions;
  readonly #limits: DurableLimits;
  readonly #reading: Coalesced<SlotPosition[]>;
  readonly #waiting = new Set<Waiter>();
  #polling = false;

  constructor(database: Database, options: DurableOptions) {
    this.#options = options;
    this.#limits = { ...defaultDurableLimits, ...options.limits };
    this.#reading = new Coalesced(() => readSlots(database, options));
  }

  /**
   * Waits until a commit is durable in so many further regions, at most `waitMs`. Gives the regions in which it is by then:
   * fewer than asked for when the time was up, too many wait already, or the master has gone. The write is committed
   * in any case, so this throws nothing but the signal's reason.
   */
  async wait(awaited: AwaitedDurability): Promise<ReadonlySet<number>> {
    awaited.signal.throwIfAborted();
    const durability = new Durability(awaited.lsn);
    if (awaited.regions <= 0 || this.#waiting.size >= this.#limits.maxWaiting) return durability.regions;
    const { clock } = this.#options;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const waiter = { ...awaited, durability, sinceMs: clock.monotonic(), resolve, reject };
    const ended = new AbortController();
    const signal = AbortSignal.any([awaited.signal, ended.signal]);
    void clock.sleep(awaited.waitMs, signal).then(resolve, reject);
    this.#waiting.add(waiter);
    void this.#poll();
    try {
      await promise;
      return durability.regions;
    } finally {
      this.#waiting.delete(waiter);
      ended.abort();
    }
  }

  /** One loop for all who wait, while there are any. Never rejects. */
  async #poll(): Promise<void> {
    if (this.#polling) return;
    this.#polling = true;
    try {
      while (this.#waiting.size > 0) {
        this.#judge(await this.#reading.next());
        await this.#options.clock.sleep(this.#limits.pollMs);
      }
    } catch {
      for (const { resolve } of this.#waiting) resolve();
    } finally {
      this.#polling = false;
    }
  }

  #judge(slots: readonly SlotPosition[]): void {
    const { clock, pulse } = this.#options;
    for (const { durability, regions, sinceMs, resolve } of this.#waiting) {
      if (durability.see(slots).size >= regions) resolve();
      else if (clock.monotonic() - sinceMs >= this.#limits.pulseAfterMs) pulse();
    }
  }
}

const readSlots = async (
  database: Database,
  { cluster, region, members }: DurableOptions,
): Promise<SlotPosition[]> => {
  const peers = [...members()].filter((id) => id !== region);
  const names = peers.map((id) => slotName(clusterSlug(cluster), region, id));
  const { rows } = await database.query<{ name: string; confirmed: string; restart: string }>({
    name: "coregent slots",
    text: `SELECT slot_name AS name, (confirmed_flush_lsn - '0/0')::text AS confirmed,
                  (restart_lsn - '0/0')::text AS restart
             FROM pg_replication_slots
            WHERE slot_name = ANY ($1::text[]) AND database = current_database()
              AND confirmed_flush_lsn IS NOT NULL AND restart_lsn IS NOT NULL`,
    values: [names],
  });
  return rows.map(({ name, confirmed, restart }) => ({
    region: peers[names.indexOf(name)] ?? 0,
    confirmed: BigInt(confirmed),
    restart: BigInt(restart),
  }));
};
