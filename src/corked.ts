import { nextTick } from "node:process";
import type { Writable } from "node:stream";

/**
 * What `send` writes goes in one piece: each piece more wakes the receiver once more. A single buffer is worth it too: of a
 * plain write something stays reachable from write to write, so that all that a request has held survives minor
 * collections (Node 24; docs/benchmarks.md).
 */
export const corked = <T>(stream: Pick<Writable, "cork" | "uncork">, send: () => T): T => {
  stream.cork();
  try {
    return send();
  } finally {
    stream.uncork();
  }
};

const corkedTurns = new WeakSet<object>();

/** What anybody writes from now on in this turn of the event loop, until the promises that are settled have been heard, goes in one piece. */
export const corkTurn = (stream: Pick<Writable, "cork" | "uncork">): void => {
  if (corkedTurns.has(stream)) return;
  corkedTurns.add(stream);
  stream.cork();
  nextTick(() => uncorkTurn(stream));
};

/** What was written in this turn goes now, and what follows too, until the next `corkTurn`. */
export const uncorkTurn = (stream: Pick<Writable, "uncork">): void => {
  if (corkedTurns.delete(stream)) stream.uncork();
};
