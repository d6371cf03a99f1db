import { Framer } from "./framer.ts";

const code = (letter: string): number => letter.charCodeAt(0);

const server = {
  error: code("E"),
  keyData: code("K"),
  ready: code("Z"),
  copyIn: code("G"),
} as const;

const client = {
  query: code("Q"),
  call: code("F"),
  sync: code("S"),
  terminate: code("X"),
} as const;

const idleStatus = code("I");

/**
 * What can be known of a session from outside:
 * - `starting`: it has not been ready for a query yet.
 * - `idle`: all that the client asked is answered, and no transaction is open.
 * - `inTransaction`: all is answered, and a transaction is open.
 * - `busy`: an answer is outstanding.
 * - `ended`: the client has said goodbye, or the last that the server said is an error.
 */
export type SessionState = "starting" | "idle" | "inTransaction" | "busy" | "ended";

/**
 * Listens to a session in clear text after its startup packet, both ways. It counts what the server has to answer with
 * ReadyForQuery: a client may ask several times before it reads the first answer, and is not idle after that one.
 */
export class Conversation {
  readonly #toClient: Framer;
  readonly #toServer: Framer;
  #cancelKey: string | null = null;
  #queries = 0;
  #syncs = 0;
  #ready = false;
  #inTransaction = false;
  #clientSpoke = false;
  #terminated = false;
  #lastIsError = false;

  constructor() {
    this.#toClient = new Framer([server.keyData, server.ready], (type, body) =>
      this.#heardServer(type, body),
    );
    this.#toServer = new Framer([], (type) => this.#heardClient(type));
  }

  fromServer(chunk: Buffer): void {
    this.#toClient.push(chunk);
  }

  fromClient(chunk: Buffer): void {
    this.#clientSpoke = true;
    this.#toServer.push(chunk);
  }

  /** As in a CancelRequest, hex; null before the server has told it. */
  get cancelKey(): string | null {
    return this.#cancelKey;
  }

  get state(): SessionState {
    if (this.#terminated || this.#lastIsError) return "ended";
    if (!this.#ready) return "starting";
    if (this.#clientSpoke) return "busy";
    return this.#inTransaction ? "inTransaction" : "idle";
  }

  /** A message to the client that is put in here does not fall into the middle of another. */
  get betweenMessages(): boolean {
    return this.#toClient.atBoundary;
  }

  #heardServer(type: number, body: Buffer | null): void {
    this.#lastIsError = type === server.error;
    switch (type) {
      case server.keyData:
        this.#cancelKey = body?.toString("hex") ?? null;
        break;
      case server.ready:
        this.#heardReady(body?.[0] ?? 0);
        break;
      case server.copyIn:
        // In the middle of COPY FROM STDIN the server passes over each Sync, so they are not answered.
        this.#syncs = 0;
        break;
    }
  }

  #heardReady(status: number): void {
    // The first one answers the startup packet.
    if (this.#ready && this.#queries > 0) this.#queries -= 1;
    else if (this.#ready && this.#syncs > 0) this.#syncs -= 1;
    this.#ready = true;
    this.#inTransaction = status !== idleStatus;
    this.#clientSpoke = this.#queries + this.#syncs > 0 || !this.#toServer.atBoundary;
  }

  #heardClient(type: number): void {
    switch (type) {
      case client.query:
      case client.call:
        this.#queries += 1;
        break;
      case client.sync:
        this.#syncs += 1;
        break;
      case client.terminate:
        this.#terminated = true;
        break;
    }
  }
}
