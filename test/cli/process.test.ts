import { spawn } from "node:child_process";
import { once } from "node:events";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { exampleEnv, exampleYaml } from "../regions/example.ts";
import { folderWith } from "./harness.ts";

const main = fileURLToPath(new URL("../../src/main.ts", import.meta.url));

/** Runs the program as its users do: a process of its own, with pipes. */
const start = (argv: readonly string[], cwd: string, env: Record<string, string> = {}) =>
  spawn(process.execPath, [main, ...argv], {
    cwd,
    env: { PATH: process.env["PATH"], ...exampleEnv, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });

const finish = async (child: ReturnType<typeof start>) => {
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, "close") as Promise<[number | null]>,
  ]);
  return { code, stdout, stderr };
};

test("data on standard output, 0", async () => {
  await using folder = await folderWith({ ".coregent/coregent.yaml": exampleYaml });
  const { code, stdout, stderr } = await finish(start(["config", "--json"], folder.path));
  expect([code, stderr]).toEqual([0, ""]);
  expect(JSON.parse(stdout)).toMatchObject({ cluster: "weightbook" });
  expect(stdout).not.toContain(exampleEnv.MOLDOVA_PASSWORD);
});

test("an error on standard error, 1", async () => {
  await using folder = await folderWith({});
  const { code, stdout, stderr } = await finish(start(["config"], folder.path));
  expect([code, stdout]).toEqual([1, ""]);
  expect(stderr).toMatch(/^error no configuration file at .*coregent\.yaml.*\nremedy .*\n$/);
});

test("called wrongly, 2", async () => {
  await using folder = await folderWith({});
  for (const argv of [[], ["confg"], ["config", "--nope"]]) {
    const { code, stdout, stderr } = await finish(start(argv, folder.path));
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).not.toBe("");
  }
});

test("a reader that goes away early is no error", async () => {
  await using folder = await folderWith({ "coregent.yaml": exampleYaml });
  const child = start(["config"], folder.path);
  // The pipe is closed before the program can have written to it.
  child.stdout.destroy();
  const [stderr, [code]] = await Promise.all([
    text(child.stderr),
    once(child, "close") as Promise<[number | null]>,
  ]);
  expect([code, stderr]).toEqual([0, ""]);
});
