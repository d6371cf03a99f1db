import { once } from "node:events";
import { createConnection, type Socket } from "node:net";
import type { BenchServer } from "./bench-server.ts";

/**
 * A session that sends one prepared statement again and again without waiting for the answers, each in a transaction of
 * its own (the extended protocol, a Sync after each). It reads no more of the answers than their kind, so that
 * what makes the load takes little of the machine.
 */
export class LoadSession {
  readonly #socket: Socket;
  readonly #waiting: (() => void)[] = [];
  #unread: Buffer = Buffer.alloc(0);
  #failure: Error | null = null;
  #sent = 0;
  #answered = 0;
  #onAnswer: (index: number) => void = () => undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.on("data", (bytes: Buffer) => this.#read(bytes));
    socket.on("error", (error) => this.#fail(error));
    socket.on("close", () => this.#fail(new Error("the server has closed the connection")));
  }

  /** @param settings run before, e.g. `SET synchronous_commit = off` */
  static async open(
    server: BenchServer,
    database: string,
    { statement, settings = [] }: { readonly statement: string; readonly settings?: readonly string[] },
  ): Promise<LoadSession> {
    const socket = createConnection({ host: "127.0.0.1", port: server.port });
    await once(socket, "connect");
    const session = new LoadSession(socket);
    await session.#ask(startup({ user: "postgres", database, application_name: "bench load" }));
    for (const sql of settings) await session.#ask(message("Q", text(sql)));
    await session.#ask(Buffer.concat([message("P", text(""), text(statement), int16(0)), sync]));
    session.#sent = 0;
    session.#answered = 0;
    return session;
  }

  /** Of transactions sent and not answered yet. */
  get outstanding(): number {
    return this.#sent - this.#answered;
  }

  /** Called with the index (from 0) of each transaction when its commit is answered. */
  onAnswer(listener: (index: number) => void): void {
    this.#onAnswer = listener;
  }

  /** @returns its index. @throws what has failed */
  send(values: readonly string[] = []): number {
    if (this.#failure !== null) throw this.#failure;
    this.#socket.write(execution(values));
    this.#sent += 1;
    return this.#sent - 1;
  }

  /** Keeps `depth` transactions under way until `goesOn` says no, and waits for the last. @returns how many there were */
  async flood(depth: number, goesOn: () => boolean): Promise<number> {
    const one = execution([]);
    const before = this.#sent;
    const fill = (): void => {
      const free = goesOn() ? depth - this.outstanding : 0;
      if (free <= 0) return;
      this.#socket.write(Buffer.concat(Array.from({ length: free }, () => one)));
      this.#sent += free;
    };
    // Half the depth at a time: fewer and larger packets.
    this.#onAnswer = () => {
      if (this.outstanding <= depth / 2) fill();
    };
    fill();
    await this.idle();
    this.#onAnswer = () => undefined;
    return this.#sent - before;
  }

  /** Until all that was sent is answered. */
  async idle(): Promise<void> {
    while (this.outstanding > 0) {
      if (this.#failure !== null) throw this.#failure;
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    if (this.#failure !== null) throw this.#failure;
  }

  end(): void {
    this.#socket.removeAllListeners("close");
    this.#socket.end(message("X"));
  }

  async #ask(bytes: Buffer): Promise<void> {
    this.#sent += 1;
    this.#socket.write(bytes);
    await this.idle();
  }

  #read(bytes: Buffer): void {
    const all = this.#unread.length === 0 ? bytes : Buffer.concat([this.#unread, bytes]);
    let place = 0;
    while (place + 5 <= all.length) {
      const end = place + 1 + all.readUInt32BE(place + 1);
      if (end > all.length) break;
      const kind = all[place];
      if (kind === 0x45) {
        const fields = all
          .toString("utf8", place + 5, end)
          .replaceAll("\0", " ")
          .trim();
        this.#fail(new Error(`the server refused the load: ${fields}`));
      }
      place = end;
      if (kind === 0x5a) this.#answer();
    }
    this.#unread = Buffer.from(all.subarray(place));
  }

  #answer(): void {
    this.#answered += 1;
    this.#onAnswer(this.#answered - 1);
    if (this.outstanding === 0) this.#wake();
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#wake();
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}

const text = (value: string): Buffer => Buffer.from(`${value}\0`);
const int16 = (value: number): Buffer => Buffer.from([value >> 8, value & 0xff]);
const int32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
};

const message = (kind: string, ...parts: readonly Buffer[]): Buffer => {
  const body = Buffer.concat(parts);
  return Buffer.concat([Buffer.from(kind), int32(body.length + 4), body]);
};

const startup = (parameters: Readonly<Record<string, string>>): Buffer => {
  const pairs = Object.entries(parameters).flatMap(([name, value]) => [text(name), text(value)]);
  const body = Buffer.concat([int32(196_608), ...pairs, Buffer.from([0])]);
  return Buffer.concat([int32(body.length + 4), body]);
};

const sync = message("S");
const execute = message("E", text(""), int32(0));

/** Bind, Execute and Sync; the values as text. */
const execution = (values: readonly string[]): Buffer => {
  const encoded = values.flatMap((value) => {
    const bytes = Buffer.from(value);
    return [int32(bytes.length), bytes];
  });
  const bind = message("B", text(""), text(""), int16(0), int16(values.length), ...encoded, int16(0));
  return Buffer.concat([bind, execute, sync]);
};
