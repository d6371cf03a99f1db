import { Buffer } from "node:buffer";
import fc from "fast-check";
import { expect, test } from "vitest";
import { keyOrder, keyPrefix } from "../../src/replication/key-order.ts";

test("states are in the order of their keys' bytes, those of one key as they came, however alike the keys begin", () => {
  const byte = fc.integer({ min: 0, max: 255 });
  const key = fc
    .tuple(fc.constantFrom("", "same", "the same start"), fc.array(byte, { maxLength: 9 }))
    .map(([start, bytes]) => start + Buffer.from(bytes).toString("latin1"));
  fc.assert(
    fc.property(
      fc.array(key, { maxLength: 60 }),
      fc.array(fc.nat(), { maxLength: 20 }),
      (distinct, again) => {
        const keys = [
          ...distinct,
          ...(distinct.length === 0 ? [] : again.map((n) => distinct[n % distinct.length]!)),
        ];
        const order = keyOrder({
          count: keys.length,
          prefixes: Float64Array.from(keys, keyPrefix),
          keyAt: (index) => keys[index]!,
          sameKey: (a, b) => keys[a] === keys[b],
        });
        const expected = [...keys.keys()].sort(
          (a, b) => Buffer.compare(Buffer.from(keys[a]!, "latin1"), Buffer.from(keys[b]!, "latin1")) || a - b,
        );
        expect([...order]).toEqual(expected);
      },
    ),
  );
});

test("of many states, where places leave less of the keys", () => {
  const keys = Array.from({ length: 50_000 }, (_, i) =>
    Buffer.from(String((i * 7_919) % 50_000).padStart(9, "0")),
  );
  const text = keys.map((key) => key.toString("latin1"));
  const order = keyOrder({
    count: keys.length,
    prefixes: Float64Array.from(text, keyPrefix),
    keyAt: (index) => text[index]!,
    sameKey: (a, b) => text[a] === text[b],
  });
  expect([...order].map((index) => text[index])).toEqual([...text].sort());
});
