import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, rm, writeFile, stat } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { parseTopology } from "../../regions/topology.ts";
import { weightbookRegions } from "../../regions/weightbook.ts";
import { configText } from "../../src/demo/config-text.ts";
import { DemoFolder } from "../../src/demo/folder.ts";
import { choosePorts } from "../../src/demo/ports.ts";
import { isFree } from "../../src/embedded/ports.ts";
import { commandLine, isAlive, processStart } from "../../src/embedded/processes.ts";
import { eventually } from "../support/eventually.ts";

let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "coregent-demo-test-"));
});
afterEach(async () => {
  await rm(root, { recursive: true, force: true });
});

describe("the data folder", () => {
  test("of two demos that come at once, one gets it; the other is told who has it", async () => {
    const path = join(root, "d");
    await mkdir(path);
    await writeFile(join(path, `demo.lock.${2 ** 30}.1.x`), "held");
    const results = await Promise.allSettled(Array.from({ length: 5 }, () => DemoFolder.open(path)));
    const opened = results.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
    expect(opened).toHaveLength(1);
    for (const result of results) {
      if (result.status === "rejected") {
        expect(result.reason).toMatchObject({
          code: "CG-DEMO-RUNNING",
          message: expect.stringContaining(`process ${process.pid}`) as string,
        });
      }
    }
    await opened[0]?.[Symbol.asyncDispose]();
    await using again = await DemoFolder.open(path);
    expect(again.path).toBe(path);
  });

  test("a lock of a process that is gone does not hold; nor one whose pid another process has now", async () => {
    const path = join(root, "d");
    await (await DemoFolder.open(path))[Symbol.asyncDispose]();
    await writeFile(join(path, `demo.lock.${2 ** 30}.1.x`), "held");
    await writeFile(join(path, `demo.lock.${process.pid}.earlier.x`), "held");
    await using folder = await DemoFolder.open(path);
    expect(folder.path).toBe(path);
    expect((await readdir(path)).filter((name) => name.startsWith("demo.lock"))).toHaveLength(1);
  });

  test("what a killed demo left running is stopped, and nothing else", async () => {
    const path = join(root, "d");
    const left = spawn("sleep", ["100"]);
    const foreign = spawn("sleep", ["100"]);
    try {
      const [leftPid, foreignPid] = [left.pid ?? 0, foreign.pid ?? 0];
      const killed = await DemoFolder.open(path);
      await killed.recordProcesses([leftPid]);
      await killed[Symbol.asyncDispose]();
      const records = [
        { pid: leftPid, start: processStart(leftPid) },
        // Its number was given to another process since.
        { pid: foreignPid, start: "earlier" },
      ];
      await writeFile(join(path, "processes.json"), JSON.stringify(records));
      const ended = once(left, "exit");
      await using folder = await DemoFolder.open(path);
      await ended;
      expect(folder.path).toBe(path);
      expect(isAlive(foreignPid)).toBe(true);
    } finally {
      left.kill("SIGKILL");
      foreign.kill("SIGKILL");
    }
  });

  test("an agent that was started in the moment of the kill, of which there is no record, is found", async () => {
    const path = join(root, "d");
    await (await DemoFolder.open(path))[Symbol.asyncDispose]();
    const agent = (folder: string): ChildProcess =>
      spawn(process.execPath, [
        "--eval",
        "setTimeout(() => undefined, 1e6)",
        "agent",
        "--config",
        `${folder}/agents/moldova.yaml`,
      ]);
    const [left, other] = [agent(path), agent(`${path}2`)];
    try {
      await eventually(() => expect(commandLine(left.pid ?? 0)).toContain(" agent "));
      const ended = once(left, "exit");
      await using folder = await DemoFolder.open(path);
      await ended;
      expect(folder.path).toBe(path);
      expect(isAlive(other.pid ?? 0)).toBe(true);
    } finally {
      left.kill("SIGKILL");
      other.kill("SIGKILL");
    }
  });

  test("a folder with somebody's own files is neither used nor purged", async () => {
    await writeFile(join(root, "coregent.yaml"), "cluster: mine\n");
    await expect(DemoFolder.open(root)).rejects.toMatchObject({ code: "CG-DEMO-FOLDER" });
    expect(await readdir(root)).toEqual(["coregent.yaml"]);
    await expect(DemoFolder.open(join(root, "coregent.yaml"))).rejects.toMatchObject({
      code: "CG-DEMO-FOLDER",
    });
  });

  test("purge removes what a demo made and keeps what it did not make", async () => {
    const path = join(root, "d");
    const folder = await DemoFolder.open(path);
    await folder.writeSettings({ seed: 1, ports: {} });
    await mkdir(folder.dataDir("moldova"));
    await writeFile(join(path, "notes.txt"), "mine");
    await folder.purge();
    expect(await readdir(path)).toEqual(["notes.txt"]);
    await rm(join(path, "notes.txt"));
    await (await DemoFolder.open(path)).purge();
    expect(await readdir(root)).toEqual([]);
  });
});

test("the admin token is made once, and for its owner only", async () => {
  await using folder = await DemoFolder.open(join(root, "token"));
  const token = await folder.adminToken();
  expect(token).toMatch(/^cg_[\w-]{43}$/);
  expect(await folder.adminToken()).toBe(token);
  expect((await stat(folder.adminTokenFile)).mode & 0o777).toBe(0o600);
});

/** Where --port-base may lead: below the ports that other tests are given meanwhile. */
const freeBase = async (): Promise<number> => {
  for (let base = 10_000 + (process.pid % 9_000); ; base += 1) {
    const ports = [0, 1, 10, 11, 20, 21].map((offset) => isFree(base + offset));
    if ((await Promise.all(ports)).every(Boolean)) return base;
  }
};

describe("ports", () => {
  test("follow --port-base, and one that is taken is named", async () => {
    const base = await freeBase();
    expect(await choosePorts(["a", "b"], { portBase: base })).toEqual({
      a: { postgres: base, api: base + 10, entrance: base + 20 },
      b: { postgres: base + 1, api: base + 11, entrance: base + 21 },
    });
    const blocker = createServer().listen(base + 1, "127.0.0.1");
    await once(blocker, "listening");
    await expect(choosePorts(["a", "b"], { portBase: base })).rejects.toMatchObject({
      code: "CG-PORT-TAKEN",
      message: expect.stringContaining(String(base + 1)) as string,
    });
    blocker.close();
  });

  test("of the last time are taken again, unless somebody has them", async () => {
    const base = await freeBase();
    const last = { a: { postgres: base, api: base + 10, entrance: base + 20 } };
    expect(await choosePorts(["a"], { last })).toEqual(last);
    const blocker = createServer().listen(last.a.api, "127.0.0.1");
    await once(blocker, "listening");
    const chosen = await choosePorts(["a"], { last });
    blocker.close();
    expect(chosen["a"]?.postgres).toBe(last.a.postgres);
    expect(chosen["a"]?.api).not.toBe(last.a.api);
  });
});

test("the configuration it writes is one that Coregent reads", () => {
  const endpoints = weightbookRegions.map((region, index) => ({
    region,
    postgres: `postgres://postgres@127.0.0.1:${7400 + index}/weightbook`,
    api: `http://127.0.0.1:${7410 + index}`,
    entrance: `127.0.0.1:${7420 + index}`,
  }));
  const text = configText({
    cluster: "weightbook",
    regions: endpoints,
    adminToken: "a secret",
    heading: "one\ntwo",
  });
  expect(text).not.toContain("a secret");
  const parsed = parseTopology(text, {});
  const topology = parsed.problems === undefined ? parsed.topology : undefined;
  expect(topology?.regions.map(({ name, id }) => [name, id])).toEqual([
    ["moldova", 1],
    ["argentina", 2],
    ["new-zealand", 3],
  ]);
  expect(topology?.tables.map(({ name, owner }) => [name, owner])).toEqual([
    ["public.workouts", "home_region"],
    ["public.workout_sets", "home_region"],
  ]);
  expect(topology?.regions[1]?.entrance).toEqual({ host: "127.0.0.1", port: 7421 });
  expect(topology?.outages).toEqual({ allowed: true });
  expect(topology?.endpoint).toMatchObject({ anonymous: "writer", tokens: [{ role: "admin" }] });
});
