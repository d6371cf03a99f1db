import { Buffer } from "node:buffer";
import type { Socket } from "node:net";
import type { Connection } from "pg";
import type { Line } from "./line.ts";

/** A message of the protocol: its kind, and the length of the rest, which counts itself. */
const headerBytes = 5;
const copyData = 0x64;

/** What Node reads at once; as much means that there may be more. */
export const readBytes = 65_536;
/** Of the memory for a message that came in parts, no more is kept for the next. */
const mostKeptBytes = 1024 * 1024;

/** What comes before the content of a CopyData message of so many bytes. */
export const copyDataHeader = (bytes: number): Buffer => {
  const header = Buffer.allocUnsafe(headerBytes);
  header[0] = copyData;
  header.writeInt32BE(headerBytes - 1 + bytes, 1);
  return header;
};

/** Is given the content of each CopyData message: from byte `start` to `end` of memory that is another's after the call. */
export type TakeCopyData = (bytes: Buffer, start: number, end: number) => void;

/**
 * Cuts what a server sends into messages, wherever its chunks end: CopyData goes to `take`, everything else, in its order, to
 * `others`. A message lies where it was received, unless a chunk ended within it.
 */
export class CopyDataCutter {
  readonly #take: TakeCopyData;
  readonly #others: (bytes: Buffer) => void;
  /** A message of which more is to come: its start lies in memory that is used again, unless it is very large. */
  #begun = Buffer.allocUnsafeSlow(readBytes);
  #begunBytes = 0;

  constructor(take: TakeCopyData, others: (bytes: Buffer) => void) {
    this.#take = take;
    this.#others = others;
  }

  push(chunk: Buffer): void {
    const rest = this.#begunBytes === 0 ? chunk : this.#complete(chunk);
    if (rest.length === 0) return;
    let at = 0;
    let others = 0;
    while (at + headerBytes <= rest.length) {
      const end = at + 1 + rest.readUInt32BE(at + 1);
      if (end > rest.length) break;
      if (rest[at] === copyData) {
        if (others < at) this.#others(rest.subarray(others, at));
        this.#take(rest, at + headerBytes, end);
        others = end;
      }
      at = end;
    }
    if (others < at) this.#others(rest.subarray(others, at));
    if (at < rest.length) this.#keep(rest.subarray(at));
  }

  /** Ends the message that has begun, if the chunk has as much; gives what follows. */
  #complete(chunk: Buffer): Buffer {
    let rest = chunk;
    for (;;) {
      const missing = this.#missing();
      this.#keep(rest.subarray(0, missing));
      if (rest.length < missing) return rest.subarray(rest.length);
      rest = rest.subarray(missing);
      if (this.#missing() > 0) continue;
      const message = this.#begun.subarray(0, this.#begunBytes);
      this.#begunBytes = 0;
      if (message[0] === copyData) this.#take(message, headerBytes, message.length);
      else this.#others(Buffer.from(message));
      if (this.#begun.length > mostKeptBytes) this.#begun = Buffer.allocUnsafeSlow(readBytes);
      return rest;
    }
  }

  /** Bytes until the message ends, or until its length is known. */
  #missing(): number {
    if (this.#begunBytes < headerBytes) return headerBytes - this.#begunBytes;
    return 1 + this.#begun.readUInt32BE(1) - this.#begunBytes;
  }

  /** Copied: the chunk's memory is the next one's too. */
  #keep(bytes: Buffer): void {
    const end = this.#begunBytes + bytes.length;
    if (end > this.#begun.length) {
      // All that the message needs at once: it may have 1 GB.
      const header = this.#begunBytes === 0 ? bytes : this.#begun;
      const larger = Buffer.allocUnsafeSlow(Math.max(end, 1 + header.readUInt32BE(1)));
      this.#begun.copy(larger, 0, 0, this.#begunBytes);
      this.#begun = larger;
    }
    bytes.copy(this.#begun, this.#begunBytes);
    this.#begunBytes = end;
  }
}

/** Those whose reads are heard by somebody who keeps nothing of them. */
const readInPlace = new WeakSet<object>();

/**
 * A socket that reads into the same memory again and again. Of its own for each read, it is outside of V8's heap, and V8 collects
 * the whole heap whenever that has grown by some 30 MB: a third of what reading large rows costs. Not for a walsender's stream,
 * which then costs the source more (docs/benchmarks.md).
 */
export const socketReadingInPlace = (line: Line): Socket => {
  const memory = Buffer.allocUnsafeSlow(readBytes);
  const socket = line.socket({
    onread: {
      buffer: memory,
      callback: (length) => {
        const read = memory.subarray(0, length);
        // Until `takeCopyData` it is the driver who hears, and keeps what is not whole.
        socket.emit("data", readInPlace.has(socket) ? read : Buffer.from(read));
        return true;
      },
    },
  });
  return socket;
};

/**
 * Takes the CopyData that a session receives from its socket, where the driver would make an object, a view and an event of
 * each. Everything else goes to the driver. For a session that does nothing else any more, once it is connected.
 */
export const takeCopyData = ({ stream }: Connection, take: TakeCopyData): void => {
  const [driver, ...more] = stream.listeners("data") as ((bytes: Buffer) => void)[];
  if (driver === undefined || more.length > 0) throw new Error("the driver reads its socket in another way");
  const cutter = new CopyDataCutter(take, (bytes) => driver.call(stream, bytes));
  stream.removeListener("data", driver);
  readInPlace.add(stream);
  stream.on("data", (bytes) => cutter.push(bytes));
};
