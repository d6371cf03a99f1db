import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { expect, test } from "vitest";

/** MB of new space, both halves, after objects have survived again and again, in a process that begins with `half` MB. */
const newSpaceAfterSurvivors = async (imported: string, half: number): Promise<number> => {
  const program = `
    import "${imported}";
    import { getHeapSpaceStatistics } from "node:v8";
    let kept = [];
    for (let i = 0; i < 2_000_000; i++) {
      kept.push({ i });
      if (kept.length > 200_000) kept = kept.slice(100_000);
      if (i % 10_000 === 0) await new Promise(setImmediate);
    }
    console.log(getHeapSpaceStatistics().find(({ space_name }) => space_name === "new_space").space_size);`;
  const { stdout } = await promisify(execFile)(process.execPath, [
    `--min-semi-space-size=${half}`,
    "--max-semi-space-size=64",
    "--input-type=module",
    "--eval",
    program,
  ]);
  return Number(stdout) / 2 ** 20;
};

test("the space of young objects grows to 16 MB, by default further", async () => {
  const ours = new URL("../../src/v8-heap.ts", import.meta.url).href;
  expect(await newSpaceAfterSurvivors(ours, 1)).toBe(16);
  expect(await newSpaceAfterSurvivors(ours, 3)).toBeLessThanOrEqual(16);
  expect(await newSpaceAfterSurvivors("node:v8", 1)).toBeGreaterThan(16);
});
