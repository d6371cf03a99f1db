import { attempt, type AttemptOutcome } from "./attempt.ts";
import type { EntranceBounds } from "./bounds.ts";
import type { Upstream } from "./upstream.ts";
import type { EntranceMaster, EntranceMasters } from "./masters.ts";
import type { OpeningPacket } from "./packets.ts";

export interface DialOptions {
  readonly masters: EntranceMasters;
  readonly bounds: EntranceBounds;
  readonly packet: Buffer;
  readonly kind: OpeningPacket["kind"];
  /** The client's connection to a master so far, which is tried first, or closed. */
  readonly upstream: Upstream | null;
  /** The client has gone. */
  readonly signal: AbortSignal;
}

export type DialOutcome =
  | Extract<AttemptOutcome, { kind: "answered" | "starting" }>
  /** What each master that was tried failed of; none: there was none to try. */
  | { readonly kind: "failed"; readonly reasons: readonly string[] };

/** Tries the candidates in turn until one answers. The last one is waited for as long as there is no other. */
export const dial = async (options: DialOptions): Promise<DialOutcome> => {
  const { masters, bounds } = options;
  const tried = new Set<string>();
  const reasons: string[] = [];
  let starting: AttemptOutcome | null = null;
  const ended = AbortSignal.any([options.signal, AbortSignal.timeout(bounds.dialMs)]);
  const next = (): EntranceMaster | undefined =>
    masters.candidates().find(({ region }) => !tried.has(region));
  let upstream = usable(options);
  for (let master = upstream?.master ?? next(); master !== undefined && !ended.aborted; master = next()) {
    const { region } = master;
    tried.add(region);
    const outcome = await attemptUnlessDown({
      ...options,
      master,
      upstream,
      ended,
      hasOther: () => next() !== undefined,
    });
    upstream = null;
    if (outcome.kind === "answered") return outcome;
    if (outcome.kind === "starting") starting = outcome;
    else {
      reasons.push(`${region}: ${outcome.reason}`);
      masters.doubt(region);
    }
  }
  return starting?.kind === "starting" ? starting : { kind: "failed", reasons };
};

/** The client's connection so far, unless it has broken or its master takes no sessions any more. */
const usable = ({ upstream, masters }: DialOptions): Upstream | null => {
  if (upstream === null) return null;
  const { socket, master } = upstream;
  const good =
    !socket.destroyed &&
    !socket.readableEnded &&
    masters.candidates().some(({ region }) => region === master.region);
  if (good) return upstream;
  socket.destroy();
  return null;
};

interface OneAttempt extends DialOptions {
  readonly master: EntranceMaster;
  readonly ended: AbortSignal;
  readonly hasOther: () => boolean;
}

const attemptUnlessDown = async (options: OneAttempt): Promise<AttemptOutcome> => {
  const { master, masters, bounds, ended, hasOther } = options;
  const giveUp = new AbortController();
  const stopWatching = masters.watch((region, state) => {
    if (region === master.region && state === "down") giveUp.abort("it is down");
  });
  const timer = setInterval(() => {
    if (hasOther()) giveUp.abort(`it did not answer within ${bounds.attemptMs} ms`);
  }, bounds.attemptMs);
  try {
    return await attempt({
      ...options,
      keepAliveMs: bounds.keepAliveMs,
      signal: AbortSignal.any([giveUp.signal, ended]),
    });
  } finally {
    clearInterval(timer);
    stopWatching();
  }
};
