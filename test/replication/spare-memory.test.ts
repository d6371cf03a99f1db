import { expect, test } from "vitest";
import { SpareMemory } from "../../src/replication/spare-memory.ts";

const kB = 1024;

test("the smallest of the memory that was given and suffices is taken, the latest stay, and none is kept that nobody asks for", () => {
  const memory = new SpareMemory(700 * kB);
  const [a, b, c] = [memory.take(100 * kB), memory.take(120 * kB), memory.take(500 * kB)];
  expect([a.length, b.length, c.length]).toEqual([112 * kB, 128 * kB, 512 * kB]);
  memory.give(a);
  memory.give(b);
  memory.give(c.subarray(0, 300 * kB));
  memory.give(c.subarray(300 * kB));
  expect(memory.take(65 * kB)).toBe(b);
  // That which was given first is gone.
  expect(memory.take(100 * kB)).toHaveLength(212 * kB);
  expect(memory.take(65 * kB)).toHaveLength(300 * kB);
  memory.give(b);
  memory.tidy(0);
  memory.tidy(59_999);
  expect(memory.take(65 * kB)).toBe(b);
  memory.give(b);
  memory.tidy(100_000);
  memory.tidy(160_000);
  expect(memory.take(65 * kB)).not.toBe(b);
});

test("what is small or large is not kept, nor taken what is much larger than needed", () => {
  const memory = new SpareMemory(2048 * kB);
  for (const bytes of [kB, 2048 * kB]) {
    const taken = memory.take(bytes);
    memory.give(taken);
    expect(memory.take(bytes)).not.toBe(taken);
  }
  const large = memory.take(1024 * kB);
  memory.give(large);
  expect(memory.take(100 * kB)).not.toBe(large);
  expect(memory.take(200 * kB)).toBe(large);
});
