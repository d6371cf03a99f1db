/**
 * Many callers, one question at a time: the answer to each is of a question that was asked after the call, and whoever
 * calls while one is under way shares the next.
 *
 * One loop and an array for each question, not promises that follow from each other: in a chain of these V8's minor
 * collections keep what the whole chain has held, since each link is held by one before that is dead and old.
 */
export class Coalesced<T> {
  readonly #ask: () => Promise<T>;
  readonly #gather: () => Promise<void>;
  /** Called for, and not asked yet. */
  #waiting: PromiseWithResolvers<T>[] = [];
  #running = false;

  /** @param gather waits a little before each question, so that more callers share it; never rejects */
  constructor(ask: () => Promise<T>, gather: () => Promise<void> = () => Promise.resolve()) {
    this.#ask = ask;
    this.#gather = gather;
  }

  /** @throws what `ask` throws */
  next(): Promise<T> {
    const waiting = Promise.withResolvers<T>();
    this.#waiting.push(waiting);
    if (!this.#running) void this.#run();
    return waiting.promise;
  }

  async #run(): Promise<void> {
    this.#running = true;
    while (this.#waiting.length > 0) await this.#answer();
    this.#running = false;
  }

  async #answer(): Promise<void> {
    await this.#gather();
    const asking = this.#waiting;
    this.#waiting = [];
    try {
      const answer = await this.#ask();
      for (const { resolve } of asking) resolve(answer);
    } catch (error) {
      for (const { reject } of asking) reject(error);
    }
  }
}
