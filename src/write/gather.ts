/** What may be carried out together with others of its form. */
export interface Gatherable {
  /** Of what it sends. */
  readonly bytes: number;
  /** Its caller is gone. */
  readonly signal: AbortSignal;
}

export interface Gathering<Q extends Gatherable, A> {
  /** One request, as if there were no others. */
  readonly alone: (request: Q) => Promise<A>;
  /** Two or more at once: their answers in their order, or an error, which then is that of none in particular. */
  readonly together: (requests: readonly Q[]) => Promise<readonly A[]>;
  /** An error of `together` that each of them is answered. After any other nothing was done, and each is carried out alone. */
  readonly concernsAll: (error: unknown) => boolean;
  readonly sleep: (ms: number) => Promise<void>;
  readonly bounds: GatherBounds;
}

export interface GatherBounds {
  /** From so many under way on, requests wait until one of them has ended, */
  readonly maxUnderWay: number;
  /** at most so long, since it may be one that waits for a lock, */
  readonly maxWaitMs: number;
  /** and until there are so many, as they are now, */
  readonly maxRequests: () => number;
  /** or so much is to be sent. */
  readonly maxBytes: number;
}

interface Waiting<Q, A> {
  readonly request: Q;
  readonly resolve: (answer: A) => void;
  readonly reject: (error: unknown) => void;
}

/** After a failure so many requests are carried out alone, after the next one twice as many. */
const firstPause = 1;
const longestPause = 64;

/**
 * Requests of one form, which cost less together. One that comes when none is under way is carried out at once, alone; those
 * that come meanwhile go together. No request waits longer than `maxWaitMs`, and no more of them than one batch holds.
 */
export class Gatherer<Q extends Gatherable, A> {
  readonly #work: Gathering<Q, A>;
  #waiting: Waiting<Q, A>[] = [];
  #waitingBytes = 0;
  #underWay = 0;
  /** Those that wait are to go when what has arrived by now has been read, */
  #goingSoon = false;
  /** or when the time has come for the batch of this number. */
  #timed = -1;
  #batches = 0;
  /** So many requests go alone now, */
  #alone = 0;
  /** and so many did after the last failure; 0: all has been well since. */
  #lastPause = 0;

  constructor(work: Gathering<Q, A>) {
    this.#work = work;
  }

  /** @throws as `alone`, or what concerns all; the signal's reason */
  ask(request: Q): Promise<A> {
    const { bounds, alone } = this.#work;
    if (this.#alone > 0) {
      this.#alone -= 1;
      return alone(request);
    }
    if (request.bytes > bounds.maxBytes) return alone(request);
    const { promise, resolve, reject } = Promise.withResolvers<A>();
    if (this.#waitingBytes + request.bytes > bounds.maxBytes) this.#go();
    this.#waiting.push({ request, resolve, reject });
    this.#waitingBytes += request.bytes;
    if (this.#underWay === 0 || this.#waiting.length >= bounds.maxRequests()) this.#go();
    else if (this.#underWay < bounds.maxUnderWay) this.#goSoon();
    else this.#goInTime();
    return promise;
  }

  #go(): void {
    const batch = this.#waiting;
    if (batch.length === 0) return;
    this.#waiting = [];
    this.#waitingBytes = 0;
    this.#batches += 1;
    this.#underWay += 1;
    void this.#carryOut(batch);
  }

  /** What is read in this turn of the event loop goes along. */
  #goSoon(): void {
    if (this.#goingSoon) return;
    this.#goingSoon = true;
    setImmediate(() => {
      this.#goingSoon = false;
      if (this.#underWay < this.#work.bounds.maxUnderWay) this.#go();
      else if (this.#waiting.length > 0) this.#goInTime();
    });
  }

  #goInTime(): void {
    const batch = this.#batches;
    if (this.#timed === batch) return;
    this.#timed = batch;
    void this.#goAfter(batch);
  }

  async #goAfter(batch: number): Promise<void> {
    await this.#work.sleep(this.#work.bounds.maxWaitMs);
    if (this.#batches === batch) this.#go();
  }

  /** Never rejects. */
  async #carryOut(batch: readonly Waiting<Q, A>[]): Promise<void> {
    const wanted = batch.filter(({ request: { signal }, reject }) => {
      if (signal.aborted) reject(signal.reason);
      return !signal.aborted;
    });
    const failed = wanted.length > 1 && !(await this.#allAtOnce(wanted));
    const [first] = wanted;
    if (wanted.length === 1 && first !== undefined) await this.#byItself(first);
    this.#underWay -= 1;
    // What has failed together holds nobody up while each is tried alone.
    if (failed) for (const each of wanted) void this.#byItself(each);
    if (this.#underWay < this.#work.bounds.maxUnderWay) this.#go();
  }

  /** Whether all were answered. */
  async #allAtOnce(batch: readonly Waiting<Q, A>[]): Promise<boolean> {
    try {
      const answers = await this.#work.together(batch.map(({ request }) => request));
      this.#lastPause = 0;
      for (const [at, { resolve, reject }] of batch.entries()) {
        const answer = answers[at];
        if (answer === undefined) reject(new TypeError("a request was carried out, and is not told of"));
        else resolve(answer);
      }
      return true;
    } catch (error) {
      if (this.#work.concernsAll(error)) {
        for (const { reject } of batch) reject(error);
        return true;
      }
      this.#lastPause = this.#lastPause === 0 ? firstPause : Math.min(2 * this.#lastPause, longestPause);
      this.#alone = this.#lastPause;
      return false;
    }
  }

  async #byItself({ request, resolve, reject }: Waiting<Q, A>): Promise<void> {
    try {
      request.signal.throwIfAborted();
      resolve(await this.#work.alone(request));
    } catch (error) {
      reject(error);
    }
  }
}
