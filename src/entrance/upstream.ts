import type { Socket } from "node:net";
import type { EntranceMaster } from "./masters.ts";

/** A connection to a master. */
export interface Upstream {
  readonly master: EntranceMaster;
  readonly socket: Socket;
}

/** Begins to connect. The caller writes after `connect`, and listens for `close`, which comes if it fails. */
export const openUpstream = (master: EntranceMaster, keepAliveMs: number): Upstream => {
  const { host, port, line } = master;
  const socket = line.socket();
  socket.on("error", () => undefined);
  socket.setNoDelay(true).setKeepAlive(true, keepAliveMs);
  if (host.startsWith("/")) socket.connect(`${host}/.s.PGSQL.${port}`);
  else socket.connect(port, host);
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
