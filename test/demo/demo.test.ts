import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Client } from "pg";
import { afterEach, beforeEach, expect, test } from "vitest";
import { topologyOf } from "../../src/config.ts";
import type { DemoReport } from "../../src/demo/run.ts";
import { processStart } from "../../src/embedded/processes.ts";
import { eventually } from "../support/eventually.ts";

const program = fileURLToPath(new URL("../../src/main.ts", import.meta.url));

let root: string;
const children: ChildProcess[] = [];
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "coregent-demo-"));
  // The servers' user must be able to enter it.
  await chmod(root, 0o755);
});
afterEach(async () => {
  for (const child of children.splice(0)) {
    if (child.exitCode === null && child.signalCode === null) {
      const closed = once(child, "close");
      child.kill("SIGKILL");
      await closed;
    }
  }
  await rm(root, { recursive: true, force: true });
});

interface Run {
  readonly child: ChildProcess;
  readonly output: { stdout: string; stderr: string };
  readonly ended: Promise<number | NodeJS.Signals>;
}

/** A command in the test's folder, with nothing to read from and no terminal. */
const run = (...args: string[]): Run => runWith({}, ...args);

const runWith = (more: Record<string, string>, ...args: string[]): Run => {
  const { COREGENT_CONFIG: _config, COREGENT_DATA: _data, FORCE_COLOR: _color, ...env } = process.env;
  const child = spawn(process.execPath, [program, ...args], {
    cwd: root,
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...env, ...more },
  });
  children.push(child);
  const output = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name]?.setEncoding("utf8").on("data", (text: string) => {
      output[name] += text;
    });
  }
  const ended = once(child, "close").then(
    ([code, signal]: (number | NodeJS.Signals | null)[]) => code ?? signal ?? "SIGKILL",
  );
  return { child, output, ended };
};

/** The processes that the demo of this folder recorded and that live. */
const living = async (): Promise<number[]> => {
  const text = await readFile(join(root, ".coregent", "processes.json"), "utf8").catch(() => "[]");
  const records = JSON.parse(text) as { pid: number; start: string | null }[];
  return records.filter(({ pid, start }) => processStart(pid) === start).map(({ pid }) => pid);
};

test("killed at the start, then a whole tour: everything it shows is so, and nothing is left running", async () => {
  const killed = run("demo");
  await eventually(() => expect(killed.output.stdout).toContain("init "), { timeoutMs: 60_000 });
  expect(await living()).toHaveLength(3);
  killed.child.kill("SIGKILL");
  expect(await killed.ended).toBe("SIGKILL");

  const { output, ended } = run("demo", "--once", "--json", "--seed", "11");
  expect(await ended, output.stderr).toBe(0);
  const report = JSON.parse(output.stdout) as DemoReport;
  expect(report.seed).toBe(11);
  expect(report.load.rowsWritten).toBeGreaterThan(10_000);
  expect(report.load.everywhereMs).not.toBeNull();
  // Nothing can be seen before the line could have brought it: else the latency would be feigned.
  const lineMs = { moldova: 78, argentina: 78, "new-zealand": 78 };
  for (const { source, seenMs } of report.writes) {
    for (const ms of Object.values(seenMs)) {
      expect(ms).toBeGreaterThan(lineMs[source as keyof typeof lineMs] * 0.9);
    }
  }
  const { writes, healedMs, conflict } = report.partition;
  for (const { writes: count, failed } of Object.values(writes)) {
    expect(count).toBeGreaterThan(10);
    expect(failed).toBe(0);
  }
  expect(healedMs).not.toBeNull();
  expect(conflict.kept).toEqual([conflict.ownerWrote]);
  for (const region of ["moldova", "argentina", "new-zealand"]) {
    expect(conflict.logged[region]).toEqual([
      { type: "update_origin_differs", minutes: String(conflict.otherWrote) },
    ]);
  }
  const { takeover } = report;
  expect(takeover).toMatchObject({
    wroteBefore: "argentina",
    wroteDuring: "moldova",
    takeover: true,
    wroteAfter: "argentina",
  });
  expect(takeover.equalMs).not.toBeNull();
  expect(report.verifyCode).toBe(0);
  expect(await living()).toEqual([]);
  expect((await readdir(join(root, ".coregent"))).filter((name) => name.startsWith("demo.lock"))).toEqual([]);
}, 180_000);

test("it keeps running with what was said to try, and Ctrl-C ends it in order with 0", async () => {
  const demo = run("demo");
  await eventually(() => expect(demo.output.stdout).toContain("Ctrl-C"), { timeoutMs: 120_000 });
  const urls = demo.output.stdout.match(/postgres:\/\/\S+/g);
  expect(urls).toHaveLength(4);
  const said = /To try[^]*?Ctrl-C/.exec(demo.output.stdout)?.[0] ?? "";

  // The tips do what they say: the API, the entrance, an outage.
  const people = await fetch(/curl '(\S+)'/.exec(said)?.[1] ?? "");
  expect([people.status, await people.json()]).toEqual([
    200,
    [expect.objectContaining({ home_region: expect.any(String) })],
  ]);
  const through = new Client({ connectionString: /psql (\S+)/.exec(said)?.[1] });
  await through.connect();
  expect((await through.query("SELECT region_name FROM coregent.local")).rows).toEqual([
    { region_name: "moldova" },
  ]);
  await through.end();
  const [, file = "", begin = ""] = /COREGENT_TOKEN=\$\(cat (\S+)\) npx coregent (.*?) {2}/.exec(said) ?? [];
  const token = (await readFile(join(root, file), "utf8")).trim();
  const outage = runWith({ COREGENT_TOKEN: token }, ...begin.split(" "));
  expect(await outage.ended, outage.output.stdout).toBe(0);
  const healed = runWith({ COREGENT_TOKEN: token }, "outage", "heal", "--all");
  expect(await healed.ended).toBe(0);
  expect(healed.output.stdout).toContain("healed at the agents of moldova, argentina, new-zealand");
  await eventually(async () => expect(await run("status").ended).toBe(0), { timeoutMs: 60_000 });

  // A clock that is wrong: its region fences itself, and is back when the clock is right.
  const [, skew = ""] = /npx coregent (demo skew \S+)/.exec(said) ?? [];
  const skewed = run(...skew.split(" "));
  expect(await skewed.ended, skewed.output.stderr).toBe(0);
  expect(skewed.output.stdout).toContain("the clock of new-zealand is 3600 s ahead");
  const { regions } = topologyOf(await readFile(join(root, ".coregent", "coregent.yaml"), "utf8"), {
    file: "coregent.yaml",
    env: {},
  });
  const codeThere = async (): Promise<unknown> => {
    const response = await fetch(
      `${regions[2]?.api}/v1/tables/users/rows/0197e0c4-7f2a-7000-8000-000000000000`,
      {
        method: "PATCH",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ home_region: "moldova" }),
      },
    );
    return ((await response.json()) as { code: unknown }).code;
  };
  await eventually(async () => expect(await codeThere()).toBe("region-fenced"));
  expect(await run("demo", "skew", "new-zealand=0").ended).toBe(0);
  await eventually(async () => expect(await codeThere()).toBe("row-not-found"));
  const misspelled = run("demo", "skew", "new-zealand=soon");
  expect(await misspelled.ended).toBe(2);
  expect(misspelled.output.stderr).toContain("It is REGION=OFFSET");

  // The configuration is found by itself; off a terminal there are no control sequences.
  const status = run("status");
  expect(await status.ended).toBe(0);
  expect(status.output.stdout).toMatch(/^OK /);
  const second = run("demo", "--once");
  expect(await second.ended).toBe(1);
  expect(second.output.stderr).toContain("CG-DEMO-RUNNING");
  expect(demo.output.stdout + status.output.stdout).not.toContain("\u001b");

  const agent = Number(/kill -9 (\d+)/.exec(demo.output.stdout)?.[1]);
  process.kill(agent, "SIGKILL");
  await eventually(() => expect(demo.output.stderr).toContain("starting it again"), { timeoutMs: 10_000 });
  await eventually(async () => expect(await run("status").ended).toBe(0), { timeoutMs: 30_000 });

  demo.child.kill("SIGINT");
  expect(await demo.ended).toBe(0);
  expect(await living()).toEqual([]);
  expect(await run("demo", "--purge").ended).toBe(0);
  expect(await readdir(root)).toEqual([]);
}, 240_000);
