import { Socket, type SocketConstructorOpts } from "node:net";

/** How connections to one region's server are made. Every session of ours with a region is given one. */
export interface Line {
  /** A new socket, not connected yet: the driver connects it. */
  socket(options?: SocketConstructorOpts): Socket;
  /** Tells when the line works again, or works otherwise: whoever waits may try at once. Gives what ends the telling. */
  onBack?(back: () => void): () => void;
  /** Tells when somebody has an answer of the server again, over the line as it always was. Gives what ends the telling. */
  onAnswer?(answered: () => void): () => void;
  /** To be called by whoever has such an answer. */
  answered?(): void;
}

/** The network as it is. */
export const directLine: Line = { socket: (options) => new Socket(options) };
