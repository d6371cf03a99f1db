import { connect, type Socket } from "node:net";

/** The protocol by hand, for clients that do what no driver does. */

export const startupPacket = (parameters: Readonly<Record<string, string>>): Buffer => {
  const text = Object.entries(parameters).map(([name, value]) => `${name}\0${value}\0`);
  const body = Buffer.from(`${text.join("")}\0`);
  const head = Buffer.alloc(8);
  head.writeUInt32BE(8 + body.length);
  head.writeUInt32BE(196_608, 4);
  return Buffer.concat([head, body]);
};

/** A typed message. */
export const message = (type: string, body: string | Buffer = ""): Buffer => {
  const bytes = Buffer.from(body as string);
  const head = Buffer.alloc(5);
  head.write(type, "latin1");
  head.writeUInt32BE(4 + bytes.length, 1);
  return Buffer.concat([head, bytes]);
};

export const query = (sql: string): Buffer => message("Q", `${sql}\0`);

export const sslRequest = Buffer.from("0000000804d2162f", "hex");
export const gssRequest = Buffer.from("0000000804d21630", "hex");

export interface Answer {
  readonly type: string;
  readonly body: Buffer;
}

/** A connection whose bytes are kept, and read as messages from wherever one says. */
export class RawClient implements Disposable {
  readonly socket: Socket;
  #bytes = Buffer.alloc(0);
  #closed = false;
  #wake: () => void = () => undefined;

  constructor(port: number) {
    this.socket = connect({ port, host: "127.0.0.1", noDelay: true });
    this.socket.on("error", () => undefined);
    this.socket.on("data", (chunk: Buffer) => {
      this.#bytes = Buffer.concat([this.#bytes, chunk]);
      this.#wake();
    });
    this.socket.on("close", () => {
      this.#closed = true;
      this.#wake();
    });
  }

  send(...parts: readonly Buffer[]): void {
    for (const part of parts) this.socket.write(part);
  }

  /** The next so many bytes; fewer if the connection is closed. */
  async take(length: number): Promise<Buffer> {
    while (this.#bytes.length < length && !this.#closed) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const taken = this.#bytes.subarray(0, length);
    this.#bytes = this.#bytes.subarray(length);
    return taken;
  }

  /** The next message; null at the end. */
  async message(): Promise<Answer | null> {
    const head = await this.take(5);
    if (head.length < 5) return null;
    return { type: head.toString("latin1", 0, 1), body: await this.take(head.readUInt32BE(1) - 4) };
  }

  /** Messages up to and with one of this type, or to the end. */
  async until(type: string): Promise<Answer[]> {
    const answers: Answer[] = [];
    for (let answer = await this.message(); answer !== null; answer = await this.message()) {
      answers.push(answer);
      if (answer.type === type) break;
    }
    return answers;
  }

  /** Resolves when the other side has closed. @returns what was left unread */
  async closed(): Promise<Buffer> {
    return this.take(Number.MAX_SAFE_INTEGER);
  }

  [Symbol.dispose](): void {
    this.socket.destroy();
  }
}

/** The fields of an ErrorResponse by their letters. */
export const errorFields = (body: Buffer | undefined): Record<string, string> =>
  Object.fromEntries(
    (body?.toString("utf8") ?? "")
      .split("\0")
      .filter((field) => field !== "")
      .map((field) => [field.slice(0, 1), field.slice(1)]),
  );
