/**
 * Many callers, one question at a time: the answer to each is of a question that was asked after the call, and whoever
 * calls while one is under way shares the next.
 */
export class Coalesced<T> {
  readonly #ask: () => Promise<T>;
  #running: Promise<void> | null = null;
  #next: Promise<T> | null = null;

  constructor(ask: () => Promise<T>) {
    this.#ask = ask;
  }

  /** @throws what `ask` throws */
  next(): Promise<T> {
    if (this.#running === null) return this.#start();
    this.#next ??= this.#running.then(() => this.#start());
    return this.#next;
  }

  async #start(): Promise<T> {
    this.#next = null;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#running = promise;
    try {
      return await this.#ask();
    } finally {
      // Whoever calls before the next one starts shares it.
      if (this.#next === null) this.#running = null;
      resolve();
    }
  }
}
