import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";

test("the example in docs/testing.md is the one that is run here", async () => {
  const page = await readFile(new URL("../../docs/testing.md", import.meta.url), "utf8");
  const example = await readFile(new URL("example.test.ts", import.meta.url), "utf8");
  const shown = /```ts\n(?:\/\/.*\n)?([\s\S]*?)```/.exec(page)?.[1];
  expect(shown).toBe(example.replace("../../src/testing/index.ts", "coregent/testing"));
});
