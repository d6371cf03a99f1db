import { spawn } from "node:child_process";
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
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

test.each([
  [["--listen", "nowhere"], 2, "CG-USAGE"],
  [["--log-level", "loud"], 2, "CG-USAGE"],
])("an agent that is called wrongly ends: %j", async (options, expected, code) => {
  await using folder = await folderWith({ "coregent.yaml": exampleYaml });
  const ended = await finish(start(["agent", "--region", "moldova", ...options], folder.path));
  expect([ended.code, ended.stdout]).toEqual([expected, ""]);
  expect(ended.stderr).toContain(code);
});

test("an agent whose port is taken says so and ends", async () => {
  const taken = createServer().listen(0, "127.0.0.1");
  await once(taken, "listening");
  const listen = `127.0.0.1:${(taken.address() as AddressInfo).port}`;
  await using folder = await folderWith({ "coregent.yaml": exampleYaml });
  const ended = await finish(start(["agent", "--region", "moldova", "--listen", listen], folder.path));
  taken.close();
  expect([ended.code, ended.stdout]).toEqual([1, ""]);
  expect(ended.stderr).toContain("CG-PORT-TAKEN");
}, 20_000);

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

/** Nothing listens at port 1, so `status --watch` shows that at once and goes on. */
const unreachable = `cluster: weightbook
regions:
  - name: moldova
    id: 1
    latitude: 47
    longitude: 28
    postgres: postgres://app:canary@127.0.0.1:1/weightbook
    api: http://127.0.0.1:1
`;

const watchUntilShown = async (cwd: string): Promise<ReturnType<typeof start>> => {
  const child = start(["status", "--watch", "--interval", "0.1"], cwd);
  await once(child.stdout, "data");
  return child;
};

test("a view that goes on ends when its reader goes away", async () => {
  await using folder = await folderWith({ "coregent.yaml": unreachable });
  const child = await watchUntilShown(folder.path);
  child.stdout.destroy();
  const [code, signal] = (await once(child, "close")) as [number | null, string | null];
  expect([code, signal]).toEqual([1, null]);
});

test.each(["SIGINT", "SIGTERM"] as const)("a view that goes on ends in order by %s", async (name) => {
  await using folder = await folderWith({ "coregent.yaml": unreachable });
  const child = await watchUntilShown(folder.path);
  child.stdout.resume();
  child.kill(name);
  const [code, signal] = (await once(child, "close")) as [number | null, string | null];
  // 1, the code of the last report, and not death by the signal.
  expect([code, signal]).toEqual([1, null]);
});
