import { Buffer } from "node:buffer";
import fc from "fast-check";
import { expect, test } from "vitest";
import { CopyDataCutter } from "../../src/postgres/copy-data.ts";

const message = (kind: string, content: Uint8Array): Buffer => {
  const header = Buffer.alloc(5, kind, "latin1");
  header.writeUInt32BE(4 + content.length, 1);
  return Buffer.concat([header, content]);
};

/** The longest are longer than the chunks. */
const messages = fc.array(
  fc.record({ kind: fc.constantFrom("d", "d", "d", "C", "Z"), content: fc.uint8Array({ maxLength: 60 }) }),
  { maxLength: 20 },
);

test("messages are told apart wherever the chunks end, each once and in order", () => {
  fc.assert(
    fc.property(messages, fc.array(fc.integer({ min: 1, max: 40 })), (sent, sizes) => {
      const bytes = Buffer.concat(sent.map(({ kind, content }) => message(kind, content)));
      const got: string[] = [];
      const others: Buffer[] = [];
      const cutter = new CopyDataCutter(
        (data, start, end) => {
          // What came before of the others has been handed on before.
          got.push(`${Buffer.concat(others).length}:${data.toString("hex", start, end)}`);
        },
        (data) => others.push(Buffer.from(data)),
      );
      let at = 0;
      for (const size of [...sizes, Math.max(1, bytes.length)]) {
        // A socket that reads in place uses the same memory for what comes next.
        const chunk = Buffer.from(bytes.subarray(at, at + size));
        cutter.push(chunk);
        chunk.fill(0xff);
        at += size;
      }
      const expected: string[] = [];
      const rest: Buffer[] = [];
      for (const { kind, content } of sent) {
        if (kind === "d")
          expected.push(`${Buffer.concat(rest).length}:${Buffer.from(content).toString("hex")}`);
        else rest.push(message(kind, content));
      }
      expect(got).toEqual(expected);
      expect(Buffer.concat(others).equals(Buffer.concat(rest))).toBe(true);
    }),
  );
});
