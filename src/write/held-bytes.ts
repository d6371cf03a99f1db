import type { Socket } from "node:net";
import type { ClientBase } from "pg";
import { Problem } from "../problems.ts";

/** What PostgreSQL may send to one request: the driver holds a row until its last byte has come, however long it is. */
const maxHeldBytes = 16 * 1024 * 1024;

const held = new WeakMap<ClientBase, HeldBytes>();

class HeldBytes {
  readonly #socket: Socket;
  #bytes = 0;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (chunk: Buffer) => {
      this.#bytes += chunk.length;
      if (this.#bytes > maxHeldBytes) this.#socket.destroy(tooLong());
    });
  }

  forget(): void {
    this.#bytes = 0;
  }
}

const tooLong = (): Problem =>
  new Problem("answer-too-long", `the database's answer has more than ${maxHeldBytes / 1024 / 1024} MiB`);

/** From now on the session ends when more comes than one request may hold; its queries then fail with `answer-too-long`. */
export const boundHeldBytes = (client: ClientBase, socket: Socket): void => {
  held.set(client, new HeldBytes(socket));
};

/** What has come so far is not held any more. */
export const forgetHeldBytes = (client: ClientBase): void => held.get(client)?.forget();
