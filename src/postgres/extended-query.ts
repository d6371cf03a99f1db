import { Buffer } from "node:buffer";
import type { Writable } from "node:stream";
import { Query } from "pg";
import { corked } from "../corked.ts";

/** As text; bytes as the type's receive function reads them; null is NULL. */
export type Value = string | Uint8Array | null;

/** What of the driver's connection is used; its types leave most of it out. */
export interface Wire {
  readonly stream: Writable;
  /** Texts of statements by name: those which the server has prepared, and those which were sent to be. */
  readonly parsedStatements: Readonly<Record<string, string>>;
  readonly submittedNamedStatements: Record<string, string>;
}

/** Where statements are sent ahead, the driver takes its own kind of query only. Its types leave the handlers out. */
export const DriverQuery = Query as unknown as new (text: string) => {
  name?: string | undefined;
  text?: string | undefined;
};

const code = (letter: string): number => letter.charCodeAt(0);
const letters = {
  parse: code("P"),
  bind: code("B"),
  describe: code("D"),
  portal: code("P"),
  execute: code("E"),
  sync: code("S"),
} as const;

/** Bytes that are more are not copied. */
const longBytes = 4096;
const firstBytes = 1024;
const binaryFormat = 1;

const lengthOf = (value: Value): number =>
  typeof value === "string" ? Buffer.byteLength(value) : (value?.length ?? -1);

/**
 * Messages of the extended query protocol (PostgreSQL, "Message Formats"), put together in one buffer. Everything runs in the
 * unnamed portal, and is answered as text.
 */
export class ExtendedQuery {
  #bytes = Buffer.allocUnsafe(firstBytes);
  #at = 0;
  /** What lies before, and long values between. */
  readonly #before: Uint8Array[] = [];

  /** Runs a statement that stays prepared in its session, and prepares it where it is not. */
  run(
    wire: Wire,
    { name, text }: { readonly name: string; readonly text: string },
    { values, describe }: { readonly values: readonly Value[]; readonly describe: boolean },
  ): void {
    if ((wire.parsedStatements[name] ?? wire.submittedNamedStatements[name]) === undefined) {
      wire.submittedNamedStatements[name] = text;
      this.#parse(name, text);
    }
    this.#bind(name, values);
    if (describe) this.#describe();
    this.#execute();
  }

  #parse(name: string, text: string): void {
    this.#message(letters.parse, 4 + Buffer.byteLength(name) + Buffer.byteLength(text));
    this.#cString(name);
    this.#cString(text);
    this.#int16(0);
  }

  #bind(name: string, values: readonly Value[]): void {
    const lengths = values.map(lengthOf);
    let bytes = 8 + Buffer.byteLength(name) + 6 * values.length;
    for (const length of lengths) bytes += Math.max(0, length);
    this.#message(letters.bind, bytes);
    this.#byte(0);
    this.#cString(name);
    this.#int16(values.length);
    for (const value of values) this.#int16(value instanceof Uint8Array ? binaryFormat : 0);
    this.#int16(values.length);
    for (const [i, value] of values.entries()) {
      const length = lengths[i] ?? -1;
      this.#int32(length);
      if (typeof value === "string") this.#text(value, length);
      else if (value !== null) this.#binary(value);
    }
    this.#int16(0);
  }

  /** Asks for the columns of the result. */
  #describe(): void {
    this.#message(letters.describe, 2);
    this.#byte(letters.portal);
    this.#byte(0);
  }

  #execute(): void {
    this.#message(letters.execute, 5);
    this.#byte(0);
    this.#int32(0);
  }

  /** Sends all of it, with a Sync behind; nothing where the connection is gone. */
  sendTo({ stream }: Wire): void {
    this.#message(letters.sync, 0);
    if (!stream.writable) return;
    corked(stream, () => {
      for (const bytes of this.#before) stream.write(bytes);
      stream.write(this.#bytes.subarray(0, this.#at));
    });
  }

  #message(letter: number, bytes: number): void {
    this.#byte(letter);
    this.#int32(4 + bytes);
  }

  #binary(value: Uint8Array): void {
    if (value.length <= longBytes) {
      this.#room(value.length);
      this.#bytes.set(value, this.#at);
      this.#at += value.length;
      return;
    }
    this.#before.push(this.#bytes.subarray(0, this.#at), value);
    this.#bytes = Buffer.allocUnsafe(firstBytes);
    this.#at = 0;
  }

  #text(value: string, bytes = Buffer.byteLength(value)): void {
    this.#room(bytes);
    this.#at += this.#bytes.write(value, this.#at);
  }

  #cString(value: string): void {
    this.#text(value);
    this.#byte(0);
  }

  #byte(value: number): void {
    this.#room(1);
    this.#at = this.#bytes.writeUInt8(value, this.#at);
  }

  #int16(value: number): void {
    this.#room(2);
    this.#at = this.#bytes.writeUInt16BE(value, this.#at);
  }

  #int32(value: number): void {
    this.#room(4);
    this.#at = this.#bytes.writeInt32BE(value, this.#at);
  }

  #room(bytes: number): void {
    const needed = this.#at + bytes;
    if (needed <= this.#bytes.length) return;
    const larger = Buffer.allocUnsafe(Math.max(needed, 2 * this.#bytes.length));
    this.#bytes.copy(larger, 0, 0, this.#at);
    this.#bytes = larger;
  }
}
