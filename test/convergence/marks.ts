/** The highest state of each key that a region was ever seen to hold: it never goes down. Pure. */

export interface Mark {
  readonly base: bigint;
  readonly version: bigint;
}

const compare = (a: Mark, b: Mark): number => {
  if (a.base !== b.base) return a.base < b.base ? -1 : 1;
  if (a.version !== b.version) return a.version < b.version ? -1 : 1;
  return 0;
};

const REGION_MASK = 1023n;

export class Marks {
  readonly #regionId: bigint;
  readonly #highest = new Map<string, Mark>();
  /** Of this region's own writes, which were durable before anybody could see them. */
  readonly #own = new Map<string, Mark>();
  /** What a crash took away again. It must come back. */
  readonly #owed = new Map<string, Mark>();

  constructor(regionId: number) {
    this.#regionId = BigInt(regionId);
  }

  /** @returns what went down, a line each */
  observe(held: ReadonlyMap<string, Mark>): string[] {
    const problems: string[] = [];
    for (const [key, mark] of this.#highest) {
      const now = held.get(key);
      if (now === undefined) problems.push(`${key} vanished, it was at ${mark.base}/${mark.version}`);
      else if (compare(now, mark) < 0)
        problems.push(`${key} went down from ${mark.base}/${mark.version} to ${now.base}/${now.version}`);
    }
    for (const [key, mark] of held) {
      this.#raise(this.#highest, key, mark);
      if ((mark.version & REGION_MASK) === this.#regionId) this.#raise(this.#own, key, mark);
    }
    return problems;
  }

  /** The server was killed: merges are committed asynchronously, so the last of them may be undone, and come again. */
  crashed(): void {
    for (const [key, mark] of this.#highest) this.#raise(this.#owed, key, mark);
    this.#highest.clear();
    for (const [key, mark] of this.#own) this.#highest.set(key, mark);
  }

  /** What is not back at the end though it was seen before, a line each. */
  settle(held: ReadonlyMap<string, Mark>): string[] {
    const problems = this.observe(held);
    for (const [key, mark] of this.#owed) {
      const now = held.get(key);
      if (now === undefined || compare(now, mark) < 0)
        problems.push(
          `${key} was at ${mark.base}/${mark.version} before a crash and did not come back to it`,
        );
    }
    return problems;
  }

  #raise(marks: Map<string, Mark>, key: string, mark: Mark): void {
    const other = marks.get(key);
    if (other === undefined || compare(mark, other) > 0) marks.set(key, mark);
  }
}
