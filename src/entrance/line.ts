import { connect, type Socket } from "node:net";
import type { EntranceMaster } from "./masters.ts";

/** A connection to a master. */
export interface Line {
  readonly master: EntranceMaster;
  readonly socket: Socket;
}

/** Begins to connect. The caller listens for `connect`, and for `close` if it fails. */
export const openLine = (master: EntranceMaster, keepAliveMs: number): Line => {
  const { host, port } = master;
  const options = {
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: keepAliveMs,
    allowHalfOpen: true,
  };
  const socket = host.startsWith("/")
    ? connect({ ...options, path: `${host}/.s.PGSQL.${port}` })
    : connect({ ...options, host, port });
  socket.on("error", () => undefined);
  return { master, socket };
};

/**
 * Says that no more will come, and lets go when the other side has done so too, at the latest after `lingerMs`. What it
 * still says is read: closed with something unread, a connection is reset, and its last words are lost.
 */
export const hangUp = (socket: Socket, lingerMs: number): void => {
  const timer = setTimeout(() => socket.destroy(), lingerMs);
  socket.once("end", () => socket.destroySoon()).once("close", () => clearTimeout(timer));
  if (socket.readableEnded) socket.destroySoon();
  else socket.resume().end();
};
