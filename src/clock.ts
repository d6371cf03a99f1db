import { performance } from "node:perf_hooks";

/** Time as an argument: whoever waits or measures is given one, so that tests can give another. */
export interface Clock {
  /** Wall clock, milliseconds since 1970. May jump; for what people read and peers compare. */
  readonly now: () => number;
  /** Milliseconds since some moment, never going back; for durations and deadlines. */
  readonly monotonic: () => number;
  /** Resolves after `ms`; rejects at once with the signal's reason when it is aborted. */
  readonly sleep: (ms: number, signal?: AbortSignal) => Promise<void>;
  /** Resolves at the next beat (untilBeatMs), or when the signal is aborted. */
  readonly beat: (everyMs: number, signal: AbortSignal) => Promise<void>;
  /** For what waits many times a second. */
  readonly nap: () => Nap;
}

/** Waits, one at a time, each of which may be cut short: without a signal, an error and their listeners for each. */
export interface Nap {
  /** Resolves after `ms`, or with the next `end`. */
  readonly take: (ms: number) => Promise<void>;
  readonly end: () => void;
}

/** Naps by any timer. `start`: has `end` called after `ms`; gives what keeps it from that. */
export const napBy = (start: (end: () => void, ms: number) => () => void): Nap => {
  let cancel: (() => void) | undefined;
  let over: (() => void) | undefined;
  const end = (): void => {
    cancel?.();
    over?.();
    over = undefined;
  };
  const take = (ms: number): Promise<void> =>
    new Promise((resolve) => {
      end();
      over = resolve;
      cancel = start(end, Math.max(0, ms));
    });
  return { take, end };
};

// Not that of timers/promises, which makes two errors with their stacks wherever a wait is cut short: that is usual here.
const sleepByTimer: Clock["sleep"] = (ms, signal) =>
  new Promise((resolve, reject) => {
    const cut = (): void => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(
      () => {
        signal?.removeEventListener("abort", cut);
        resolve();
      },
      Math.max(0, ms),
    );
    if (signal?.aborted === true) cut();
    else signal?.addEventListener("abort", cut, { once: true });
  });

/** The machine's clock. Made in the composition root, handed to everybody else. */
export const systemClock = (): Clock => ({
  now: () => Date.now(),
  monotonic: () => performance.now(),
  sleep: sleepByTimer,
  beat: (everyMs, signal) =>
    sleepByTimer(untilBeatMs(performance.now(), everyMs), signal).catch(() => undefined),
  nap: () =>
    napBy((end, ms) => {
      const timer = setTimeout(end, ms);
      return () => clearTimeout(timer);
    }),
});

/** So much too early a timer may be, and the loop would come round twice. */
const earlyMs = 1;

/**
 * Until the next multiple of `everyMs`, in whole ms. What goes on while nothing happens, at all times, waits for beats:
 * a process wakes up once for all that is due then. To wake up costs more than most of what is done then. Multiples of
 * 300 fall together with the probes (`probeMs`).
 */
export const untilBeatMs = (monotonicMs: number, everyMs: number): number =>
  Math.ceil(everyMs - (monotonicMs % everyMs)) + earlyMs;

/** A number in [0, 1), as Math.random gives. */
export type RandomSource = () => number;

export interface BackoffOptions {
  readonly firstMs: number;
  readonly maxMs: number;
  /** Growth from one attempt to the next; 2 if not given. */
  readonly factor?: number;
}

/** The longest that may be waited before attempt `attempt` (0 for the first retry), in milliseconds. */
export const backoffCeilingMs = ({ firstMs, maxMs, factor = 2 }: BackoffOptions, attempt: number): number =>
  Math.min(maxMs, firstMs * factor ** Math.max(0, attempt));

/**
 * A wait with equal jitter: between a half and the whole of the ceiling, so that agents which lost one peer together do
 * not all come back at one moment, and none comes back at once.
 */
export const backoffMs = (options: BackoffOptions, attempt: number, random: RandomSource): number => {
  const ceiling = backoffCeilingMs(options, attempt);
  return ceiling / 2 + (ceiling / 2) * random();
};

/** Counts failures in a row. `nextMs` for each failure, `reset` after a success. */
export interface Backoff {
  readonly nextMs: () => number;
  readonly reset: () => void;
  readonly failures: number;
}

export const createBackoff = (options: BackoffOptions, random: RandomSource): Backoff => {
  let failures = 0;
  return {
    nextMs: () => {
      const wait = backoffMs(options, failures, random);
      failures += 1;
      return wait;
    },
    reset: () => {
      failures = 0;
    },
    get failures() {
      return failures;
    },
  };
};
