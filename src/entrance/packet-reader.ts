import type { Socket } from "node:net";
import { readOpening, type OpeningPacket } from "./packets.ts";

/** A whole packet, with its bytes. */
export type ReadPacket = Exclude<OpeningPacket, { kind: "incomplete" | "garbage" }> & {
  readonly data: Buffer;
};

/**
 * Reads the opening packets of a client one at a time. In between the socket is paused: a client that does not wait for
 * the answer fills the network's buffers and not ours.
 */
export class PacketReader {
  readonly #socket: Socket;
  #held: Buffer = Buffer.alloc(0);

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.pause();
  }

  /** @returns null if the client has gone, sends garbage, or takes longer than that */
  async next(timeoutMs: number): Promise<ReadPacket | null> {
    const { promise, resolve } = Promise.withResolvers<ReadPacket | null>();
    const look = (): void => {
      const packet = readOpening(this.#held);
      if (packet.kind === "garbage") resolve(null);
      else if (packet.kind !== "incomplete") resolve(this.#take(packet));
    };
    const take = (chunk: Buffer): void => {
      this.#held = Buffer.concat([this.#held, chunk]);
      look();
    };
    const give = (): void => resolve(null);
    const timer = setTimeout(give, timeoutMs);
    const socket = this.#socket;
    socket.on("data", take).on("end", give).on("close", give);
    look();
    socket.resume();
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      socket.off("data", take).off("end", give).off("close", give);
      socket.pause();
    }
  }

  /** What came after the last packet. */
  rest(): Buffer {
    const rest = this.#held;
    this.#held = Buffer.alloc(0);
    return rest;
  }

  #take(packet: Exclude<OpeningPacket, { kind: "incomplete" | "garbage" }>): ReadPacket {
    const data = this.#held.subarray(0, packet.bytes);
    this.#held = this.#held.subarray(packet.bytes);
    return { ...packet, data };
  }
}
