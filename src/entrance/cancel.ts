import type { EntranceBounds } from "./bounds.ts";
import { openUpstream } from "./upstream.ts";
import type { EntranceMaster, EntranceMasters } from "./masters.ts";
import type { Session } from "./session.ts";

export interface CancelRequest {
  /** Hex. */
  readonly key: string;
  /** The packet as it came. */
  readonly data: Buffer;
  /** Of the client that sends it. */
  readonly address: string;
}

/**
 * Which masters a cancel request concerns. That of the session with this key, if it is in clear text. The key of an
 * encrypted session is known to its client and its master alone; so the request goes to each master that has an
 * encrypted session from the same address. A master without a session of that key does nothing.
 */
export const cancelTargets = (
  { key, address }: Pick<CancelRequest, "key" | "address">,
  sessions: Iterable<Session>,
  masters: EntranceMasters,
): readonly EntranceMaster[] => {
  const hidden = new Map<string, EntranceMaster>();
  for (const session of sessions) {
    if (session.cancelKey === key) return [session.master];
    if (session.encrypted && session.address === address) hidden.set(session.master.region, session.master);
  }
  // It may be of a session that came by another entrance.
  return hidden.size > 0 ? [...hidden.values()] : masters.candidates().slice(0, 1);
};

/** Resolves when the master has hung up, which it does when it has dealt with it; or when that takes too long. */
export const sendCancel = async (
  master: EntranceMaster,
  data: Buffer,
  { attemptMs, keepAliveMs }: EntranceBounds,
): Promise<void> => {
  const { socket } = openUpstream(master, keepAliveMs);
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, attemptMs);
  socket
    .on("end", resolve)
    .on("close", resolve)
    .once("connect", () => socket.write(data))
    .resume();
  await promise;
  clearTimeout(timer);
  socket.destroy();
};
