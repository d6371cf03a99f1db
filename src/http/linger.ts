import type { Socket } from "node:net";

/** How long a client may go on sending behind its last answer. */
const lingerMs = 1_000;

/**
 * Ends a connection so that what was written arrives. To close it while bytes come in makes the client's system throw away
 * what it has received and not yet read: so they are taken and forgotten for a while.
 */
export const endInOrder = (socket: Socket): void => {
  socket.end(() => {
    const timer = setTimeout(() => socket.destroy(), lingerMs);
    timer.unref();
    socket.once("close", () => clearTimeout(timer));
  });
};
