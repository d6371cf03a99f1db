import type { Socket } from "node:net";
import { corked } from "../corked.ts";
import type { Conversation } from "./conversation.ts";
import { hangUp, type Upstream } from "./upstream.ts";
import type { EntranceMaster } from "./masters.ts";
import { errorResponse, type SessionError } from "./packets.ts";

/**
 * - `client`: it hung up. `master`: it hung up, or the line to it is lost.
 * - `down`, `drained`, `stopped`: its master was marked down or drained, the entrance stops.
 */
export type SessionEnd = "client" | "master" | "down" | "drained" | "stopped";

export interface SessionParts {
  readonly client: Socket;
  readonly upstream: Upstream;
  /** null: it is encrypted, and its bytes mean nothing to us. */
  readonly conversation: Conversation | null;
  /** What the master has said already, and the client after its last packet. */
  readonly answer: Buffer;
  readonly rest: Buffer;
  readonly lingerMs: number;
  /** In milliseconds; never goes back. */
  readonly monotonic: () => number;
  /** Called once, when the client's connection is closed. */
  readonly onEnd: (session: Session, end: SessionEnd) => void;
  /** Called when it has become idle; of an encrypted session, never. */
  readonly onIdle: (session: Session) => void;
}

/**
 * One client and one master, and the bytes between them as they are. A side that does not read makes the other one
 * wait, so that little more than what the sockets buffer is ever held.
 */
export class Session {
  readonly master: EntranceMaster;
  /** The client's, by which a cancel request can be brought together with an encrypted session. */
  readonly address: string;
  readonly #parts: SessionParts;
  readonly #client: Socket;
  readonly #upstream: Socket;
  #end: SessionEnd | null = null;
  #gone = false;
  #serverSpokeLast = true;
  #lastByteMs: number;
  #bytesToClient = 0;
  #bytesToServer = 0;

  constructor(parts: SessionParts) {
    this.#parts = parts;
    this.#client = parts.client;
    this.#upstream = parts.upstream.socket;
    this.master = parts.upstream.master;
    this.address = parts.client.remoteAddress ?? "";
    this.#lastByteMs = parts.monotonic();
  }

  get encrypted(): boolean {
    return this.#parts.conversation === null;
  }

  /** As in a CancelRequest, hex; null where it is not known. */
  get cancelKey(): string | null {
    return this.#parts.conversation?.cancelKey ?? null;
  }

  get bytes(): { readonly toClient: number; readonly toServer: number } {
    return { toClient: this.#bytesToClient, toServer: this.#bytesToServer };
  }

  /**
   * Whether nothing is under way. Of an encrypted session that is a guess: the master has spoken last, and for
   * `quietMs` neither has said a word.
   */
  isIdle(quietMs: number): boolean {
    const { conversation, monotonic } = this.#parts;
    if (conversation !== null) return conversation.state === "idle";
    return this.#serverSpokeLast && monotonic() - this.#lastByteMs >= quietMs;
  }

  start(): void {
    const { answer, rest } = this.#parts;
    const client = this.#client;
    const upstream = this.#upstream;
    upstream.on("data", (chunk: Buffer) => this.#fromServer(chunk));
    client.on("data", (chunk: Buffer) => this.#fromClient(chunk));
    client.on("drain", () => upstream.resume());
    upstream.on("drain", () => client.resume());
    upstream.on("end", () => this.#serverEnded());
    upstream.on("close", () => this.#serverEnded());
    client.on("end", () => upstream.end());
    client.on("close", () => this.#clientClosed());
    if (answer.length > 0) this.#fromServer(answer);
    if (rest.length > 0) this.#fromClient(rest);
    if (client.readableEnded) upstream.end();
    if (client.destroyed) this.#clientClosed();
    if (upstream.destroyed || upstream.readableEnded) this.#serverEnded();
    if (!client.writableNeedDrain) upstream.resume();
    if (!upstream.writableNeedDrain) client.resume();
  }

  /** Ends it: what the master has said still reaches the client, then a reason if one can be given. */
  close(end: SessionEnd): void {
    if (this.#end !== null) return;
    this.#end = end;
    const client = this.#client;
    this.#upstream.destroy();
    const reason = this.#reason(end);
    if (reason !== null) client.write(errorResponse(reason));
    hangUp(client, this.#parts.lingerMs);
  }

  /** Without a word. */
  destroy(): void {
    this.#end ??= "stopped";
    this.#upstream.destroy();
    this.#client.destroy();
  }

  #fromServer(chunk: Buffer): void {
    if (this.#end !== null) return;
    const { conversation, monotonic, onIdle } = this.#parts;
    this.#bytesToClient += chunk.length;
    this.#serverSpokeLast = true;
    if (!pass(chunk, this.#client)) this.#upstream.pause();
    if (conversation === null) {
      this.#lastByteMs = monotonic();
      return;
    }
    conversation.fromServer(chunk);
    if (conversation.state === "idle") onIdle(this);
  }

  #fromClient(chunk: Buffer): void {
    if (this.#end !== null) return;
    const { conversation, monotonic } = this.#parts;
    this.#bytesToServer += chunk.length;
    this.#serverSpokeLast = false;
    if (!pass(chunk, this.#upstream)) this.#client.pause();
    if (conversation === null) this.#lastByteMs = monotonic();
    else conversation.fromClient(chunk);
  }

  #serverEnded(): void {
    this.close(this.#client.readableEnded ? "client" : "master");
  }

  #clientClosed(): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#end ??= "client";
    this.#upstream.destroy();
    this.#parts.onEnd(this, this.#end);
  }

  #reason(end: SessionEnd): SessionError | null {
    const { conversation } = this.#parts;
    if (conversation === null || !conversation.betweenMessages) return null;
    const why = whyEnded[end](this.master.region);
    switch (conversation.state) {
      case "ended":
        return null;
      case "idle":
      case "inTransaction":
        return {
          code: "57P01",
          message: why,
          hint: "Connect again: a master that is well takes the session.",
        };
      case "starting":
      case "busy":
        return {
          code: "08006",
          message: why,
          detail: "What was under way may have been done or not.",
          hint: "Connect again, and look before you repeat a write.",
        };
    }
  }
}

const pass = (chunk: Buffer, to: Socket): boolean => corked(to, () => to.write(chunk));

const whyEnded: Readonly<Record<SessionEnd, (region: string) => string>> = {
  client: () => "the client has hung up",
  master: (region) => `the connection to the master of region "${region}" is lost`,
  down: (region) => `terminating connection: the master of region "${region}" is down`,
  drained: (region) => `terminating connection: region "${region}" is taken out of service`,
  stopped: () => "terminating connection: the entrance is being stopped",
};
