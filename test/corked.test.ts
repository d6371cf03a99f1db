import { Writable } from "node:stream";
import { describe, expect, test } from "vitest";
import { corkTurn, uncorkTurn } from "../src/corked.ts";

/** What is written to it, as the pieces in which it goes. */
class Pieces extends Writable {
  readonly pieces: string[] = [];

  constructor() {
    super({ decodeStrings: false });
  }

  override _write(chunk: string, _encoding: BufferEncoding, done: () => void): void {
    this.pieces.push(chunk);
    done();
  }

  override _writev(chunks: readonly { readonly chunk: string }[], done: () => void): void {
    this.pieces.push(chunks.map(({ chunk }) => chunk).join(""));
    done();
  }
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe("a turn's writes", () => {
  test("go in one piece, also those of promises; the next turn's in another", async () => {
    const stream = new Pieces();
    for (const letters of ["abc", "de"]) {
      await Promise.resolve();
      for (const letter of letters) {
        corkTurn(stream);
        stream.write(letter);
        await Promise.resolve();
      }
      await turn();
      expect(stream.writableCorked).toBe(0);
    }
    expect(stream.pieces).toEqual(["abc", "de"]);
  });

  test("go at once where one is large, in their order, and are gathered again after it", async () => {
    const stream = new Pieces();
    await Promise.resolve();
    corkTurn(stream);
    stream.write("a");
    uncorkTurn(stream);
    stream.write("LARGE");
    expect(stream.pieces).toEqual(["a", "LARGE"]);
    corkTurn(stream);
    stream.write("b");
    stream.write("c");
    await turn();
    expect(stream.pieces).toEqual(["a", "LARGE", "bc"]);
    expect(stream.writableCorked).toBe(0);
  });

  test("do not keep a stream from ending", async () => {
    const stream = new Pieces();
    corkTurn(stream);
    stream.write("a");
    stream.end("b");
    await turn();
    expect(stream.pieces.join("")).toBe("ab");
    expect(stream.writableFinished).toBe(true);
  });
});
