import { Socket } from "node:net";

/** How connections to one region's server are made. Every session of ours with a region is given one. */
export interface Line {
  /** A new socket, not connected yet: the driver connects it. */
  socket(): Socket;
}

/** The network as it is. */
export const directLine: Line = { socket: () => new Socket() };
