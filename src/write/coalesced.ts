/**
 * Many callers, one question at a time: the answer to each is of a question that was asked after the call, and whoever
 * calls while one is under way shares the next.
 */
export class Coalesced<T> {
  readonly #ask: () => Promise<T>;
  readonly #gather: () => Promise<void>;
  /** Called for, and not asked yet. */
  #gathering: Promise<T> | null = null;
  #running: Promise<void> | null = null;
  #next: Promise<T> | null = null;

  /** @param gather waits a little before each question, so that more callers share it */
  constructor(ask: () => Promise<T>, gather: () => Promise<void> = () => Promise.resolve()) {
    this.#ask = ask;
    this.#gather = gather;
  }

  /** @throws what `ask` throws */
  next(): Promise<T> {
    if (this.#gathering !== null) return this.#gathering;
    if (this.#running === null) return this.#start();
    this.#next ??= this.#running.then(() => this.#start());
    return this.#next;
  }

  #start(): Promise<T> {
    this.#next = null;
    this.#gathering = this.#gatherAndAsk();
    return this.#gathering;
  }

  async #gatherAndAsk(): Promise<T> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#running = promise;
    try {
      await this.#gather();
      this.#gathering = null;
      return await this.#ask();
    } finally {
      // Whoever calls before the next one starts shares it.
      if (this.#next === null) this.#running = null;
      resolve();
    }
  }
}
