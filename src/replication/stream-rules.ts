/** A source ends a stream of which it hears nothing for `wal_sender_timeout`; 0: never. */
export const statusIntervalMs = (walSenderTimeoutMs: number): number =>
  walSenderTimeoutMs > 0 ? Math.min(10_000, walSenderTimeoutMs / 3) : 10_000;

/**
 * What to do about a stream of which nothing was heard for `quarters` quarters of the timeout. At first it is asked to
 * answer. If it has not, its walsender is looked at on another session: it may be reading WAL that holds nothing for us.
 */
export const judgeSilence = (quarters: number): "wait" | "ping" | "probe" => {
  if (quarters === 0) {
    return "wait";
  }
  return quarters < 4 ? "ping" : "probe";
};
