import { expect, test } from "vitest";
import { SpareMemory } from "../../src/replication/spare-memory.ts";

const kB = 1024;

test("the smallest of the memory that was given and suffices is taken, the latest stay, and none after clear", () => {
  const memory = new SpareMemory({ count: 2, bytes: 512 * kB });
  const [a, b, c] = [memory.take(100 * kB), memory.take(120 * kB), memory.take(300 * kB)];
  expect([a.length, b.length, c.length]).toEqual([128 * kB, 128 * kB, 512 * kB]);
  memory.give(a);
  memory.give(c);
  memory.give(b);
  expect(memory.take(65 * kB)).toBe(b);
  // That which was given first is gone.
  expect(memory.take(100 * kB)).toBe(c);
  expect(memory.take(100 * kB)).not.toBe(a);
  memory.give(c);
  memory.clear();
  expect(memory.take(512 * kB)).not.toBe(c);
});

test("what is small or large is not kept", () => {
  const memory = new SpareMemory({ count: 2, bytes: 128 * kB });
  for (const bytes of [kB, 256 * kB]) {
    const taken = memory.take(bytes);
    memory.give(taken);
    expect(memory.take(bytes)).not.toBe(taken);
  }
});
