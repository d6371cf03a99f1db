import { databaseName } from "./position.ts";

/** Of names that clients have sent, so that invented ones do not fill the memory. */
const maxNames = 1_000;
const againMs = 1_000;

/**
 * Which database each region has now, and which are no more. A region's databases follow each other in no order that could
 * be read off them. So one is taken for a former one only if it was the region's before our eyes, or the region's
 * master, asked after somebody had named it, is another.
 */
export class Incarnations {
  readonly #current = new Map<number, string>();
  readonly #superseded = new Set<string>();
  readonly #askedMs = new Map<string, number>();

  get current(): ReadonlyMap<number, string> {
    return this.#current;
  }

  get superseded(): ReadonlySet<string> {
    return this.#superseded;
  }

  /** What a region's own master says. */
  learn(origin: number, incarnation: string): void {
    const before = this.#current.get(origin);
    if (before !== undefined && before !== incarnation) this.#supersede(databaseName(origin, before));
    this.#superseded.delete(databaseName(origin, incarnation));
    this.#current.set(origin, incarnation);
  }

  /** Whether the region's master is to be asked about it: not if that is known, or was asked a moment ago. */
  doubt(origin: number, incarnation: string, nowMs: number): boolean {
    const name = databaseName(origin, incarnation);
    const askedMs = this.#askedMs.get(name) ?? Number.NEGATIVE_INFINITY;
    if (this.#superseded.has(name) || nowMs - askedMs < againMs) return false;
    this.#askedMs.delete(name);
    dropOldest(this.#askedMs);
    this.#askedMs.set(name, nowMs);
    return true;
  }

  /** @param told by the region's master, which was asked after the doubt */
  settle(origin: number, incarnation: string, told: string): void {
    if (told !== incarnation) this.#supersede(databaseName(origin, incarnation));
  }

  #supersede(name: string): void {
    dropOldest(this.#superseded);
    this.#superseded.add(name);
  }
}

const dropOldest = (names: Set<string> | Map<string, number>): void => {
  const [oldest] = names.keys();
  if (oldest !== undefined && names.size >= maxNames) names.delete(oldest);
};
