import fc from "fast-check";
import { expect, test } from "vitest";
import { Framer } from "../../src/entrance/framer.ts";
import { message } from "./wire.ts";

const keptTypes = ["K", "Z"] as const;
const maxKeptBytes = 8_192;

interface Heard {
  readonly type: string;
  /** null: it is not kept. */
  readonly body: string | null;
}

/** A framer, and what it says: bodies are read at once, as they are for the call only. */
const listening = () => {
  const heard: Heard[] = [];
  const framer = new Framer(
    keptTypes.map((type) => type.charCodeAt(0)),
    (type, body) =>
      heard.push({ type: String.fromCharCode(type), body: body === null ? null : body.toString("latin1") }),
  );
  return { framer, heard };
};

/** The same by what the protocol says, of all bytes at once. */
const read = (bytes: Buffer): { readonly heard: readonly Heard[]; readonly atBoundary: boolean } => {
  const heard: Heard[] = [];
  for (let at = 0; ;) {
    if (at === bytes.length) return { heard, atBoundary: true };
    if (bytes.length - at < 5) return { heard, atBoundary: false };
    const type = String.fromCharCode(bytes[at] ?? 0);
    const length = bytes.readInt32BE(at + 1);
    const end = at + 1 + length;
    if (length < 4 || end > bytes.length) return { heard, atBoundary: false };
    const isKept = keptTypes.some((kept) => kept === type) && length - 4 <= maxKeptBytes;
    heard.push({ type, body: isKept ? bytes.toString("latin1", at + 5, end) : null });
    at = end;
  }
};

const short = fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes));
const long = fc
  .integer({ min: maxKeptBytes - 2, max: maxKeptBytes + 2 })
  .map((bytes) => Buffer.alloc(bytes, "x"));
const whole = fc
  .record({
    type: fc.constantFrom("D", "C", ...keptTypes),
    body: fc.oneof({ weight: 20, arbitrary: short }, { weight: 1, arbitrary: long }),
  })
  .map(({ type, body }) => message(type, body));
/** Whole messages, and at times one whose length is none behind them. */
const streams = fc
  .tuple(
    fc.array(whole, { maxLength: 15 }),
    fc.option(fc.constantFrom(-1, 0, 3), { nil: null, freq: 3 }),
    short,
  )
  .map(([messages, wrong, rest]) => {
    const broken = Buffer.from("Z....");
    broken.writeInt32BE(wrong ?? 4, 1);
    return Buffer.concat([...messages, ...(wrong === null ? [] : [broken, rest])]);
  });
/** Pieces of these sizes, in turn: within a header, whole messages, several and a part of one. 0: nothing has come. */
const cuts = fc.array(
  fc.oneof(
    fc.integer({ min: 0, max: 6 }),
    fc.integer({ min: 1, max: 100 }),
    fc.integer({ min: 1, max: 20_000 }),
  ),
  { minLength: 1, maxLength: 8 },
);

test("messages, bodies that are kept and boundaries are the same however the network cuts them", () => {
  fc.assert(
    fc.property(streams, cuts, (bytes, sizes) => {
      const { framer, heard } = listening();
      for (let at = 0, i = 0; at < bytes.length; i += 1) {
        const size = sizes[i % sizes.length] || i % 2;
        framer.push(bytes.subarray(at, at + size));
        at = Math.min(at + size, bytes.length);
        const expected = read(bytes.subarray(0, at));
        expect({ heard, atBoundary: framer.atBoundary }).toEqual(expected);
      }
    }),
  );
});

test("of a message longer than can be kept the end is told, and nothing of its body", () => {
  for (const [bytes, kept] of [
    [maxKeptBytes, true],
    [maxKeptBytes + 1, false],
  ] as const) {
    for (const size of [bytes + 5, 1_000, 4]) {
      const { framer, heard } = listening();
      const sent = message("Z", Buffer.alloc(bytes, "x"));
      for (let at = 0; at < sent.length; at += size) framer.push(sent.subarray(at, at + size));
      expect(heard.map(({ type, body }) => [type, body?.length])).toEqual([["Z", kept ? bytes : undefined]]);
    }
  }
});

test("what is no protocol has no boundaries any more", () => {
  const { framer, heard } = listening();
  framer.push(Buffer.from("Q\0\0\0\x03rest"));
  expect(framer.atBoundary).toBe(false);
  framer.push(message("Z", "I"));
  expect(framer.atBoundary).toBe(false);
  expect(heard).toEqual([]);
});
