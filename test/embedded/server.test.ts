import { spawn } from "node:child_process";
import { chmod, mkdir, mkdtemp, readFile, readlink, rename, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { Client } from "pg";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { cacheFolder, copyTree, findBinaries, linkLibraries } from "../../src/embedded/binaries.ts";
import { removeDataFolder } from "../../src/embedded/data-folder.ts";
import { childrenOf, commandLine, isAlive, signal } from "../../src/embedded/processes.ts";
import { canRun, serverUser } from "../../src/embedded/server-user.ts";
import { startServer, type Server } from "../../src/embedded/server.ts";
import { eventually } from "../support/eventually.ts";

let folder = "";
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "coregent-test-"));
  await chmod(folder, 0o755);
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const start = (name = "pg", more: { port?: number } = {}): Promise<Server> =>
  startServer({ dataDir: join(folder, name), fsync: false, removeWithUs: true, ...more });

const query = async (server: Server, sql: string): Promise<unknown> => {
  const client = new Client({ connectionString: server.url() });
  client.on("error", () => undefined);
  await client.connect();
  try {
    const { rows } = await client.query<Record<string, unknown>>(sql);
    return Object.values(rows[0] ?? {})[0];
  } finally {
    await client.end();
  }
};

test("stop, start again: the same port, the data kept, nothing left running", async () => {
  const server = await start();
  const { port, pid } = server;
  await query(server, "CREATE TABLE t AS SELECT 42 AS n");
  await server.stop();
  expect(server.running).toBe(false);
  expect(isAlive(pid ?? 0)).toBe(false);
  await server.start();
  expect(server.port).toBe(port);
  expect(await query(server, "SELECT n FROM t")).toBe(42);
  await server.stop("immediate");
});

test("kill leaves no process of the server, and what was committed is there after a restart", async () => {
  await using server = await start();
  await query(server, "CREATE TABLE t AS SELECT 42 AS n");
  // It would go on for minutes after its postmaster, which it does not look for.
  const busy = query(server, "SELECT count(*) FROM generate_series(1, 1000000000)").catch(() => "broken");
  await eventually(async () => {
    const sql =
      "SELECT count(*)::int FROM pg_stat_activity WHERE query LIKE '%generate_series%' AND state = 'active'";
    expect(await query(server, sql)).toBe(2);
  });
  const pids = [server.pid ?? 0, ...childrenOf(server.pid ?? 0)];
  expect(pids.length).toBeGreaterThan(4);
  await server.kill();
  expect(await busy).toBe("broken");
  expect(pids.filter(isAlive)).toEqual([]);
  expect(server.pid).toBeNull();
  await server.restart();
  expect(await query(server, "SELECT n FROM t")).toBe(42);
  expect(await readFile(server.logFile, "utf8")).toContain("was not properly shut down");
});

test.each([16, 17, 18] as const)("servers of PostgreSQL %i are no clones of each other", async (version) => {
  const identifiers: unknown[] = [];
  for (const name of ["one", "two"]) {
    await using server = await startServer({ dataDir: join(folder, name), version, fsync: false });
    await query(server, "CREATE TABLE t AS SELECT 1 AS n");
    await server.kill();
    await server.restart();
    identifiers.push(await query(server, "SELECT system_identifier::text FROM pg_control_system()"));
    expect(await query(server, "SELECT n FROM t")).toBe(1);
  }
  expect(new Set(identifiers).size).toBe(2);
});

test("a setting changed at run time reaches sessions that are open", async () => {
  await using server = await start();
  const client = new Client({ connectionString: server.url() });
  await client.connect();
  const offset = async (): Promise<unknown> =>
    (
      await client.query<{ v: string | null }>(
        "SELECT current_setting('coregent.clock_offset_us', true) AS v",
      )
    ).rows[0]?.v;
  expect(await offset()).toBeNull();
  await server.configure({ "coregent.clock_offset_us": "3600000000" });
  await eventually(async () => expect(await offset()).toBe("3600000000"));
  await client.end();
});

test("an error at start shows what the server's log says", async () => {
  const options = { dataDir: join(folder, "pg"), fsync: false, settings: { wal_level: "nonsense" } };
  await expect(startServer(options)).rejects.toThrow(/invalid value for parameter "wal_level"/);
});

test("data of another major version are refused", async () => {
  await (await start()).stop();
  await expect(startServer({ dataDir: join(folder, "pg"), version: 17 })).rejects.toThrow(
    /holds data of PostgreSQL 18, not 17/,
  );
});

test("a folder that holds something else is left as it is; a copy cut short is made again", async () => {
  const dataDir = join(folder, "pg");
  await mkdir(dataDir, { mode: 0o777 });
  await chmod(dataDir, 0o777);
  await writeFile(join(dataDir, "thesis.txt"), "irreplaceable");
  await expect(start()).rejects.toThrow("ENOTEMPTY");
  expect(await readFile(join(dataDir, "thesis.txt"), "utf8")).toBe("irreplaceable");

  await mkdir(join(folder, "cut.draft"));
  await writeFile(join(folder, "cut.draft", "PG_VERSION"), "18");
  await using server = await start("cut");
  expect(server.running).toBe(true);
});

test("a port that is taken for a moment is awaited", async () => {
  await using first = await start("first");
  const second = start("second", { port: first.port });
  await eventually(async () => {
    expect(await readFile(join(folder, "second.log"), "utf8")).toContain("Address already in use");
  });
  await first.stop();
  await using server = await second;
  expect(server.port).toBe(first.port);
});

/** Runs `code` (which has startServer and dataDir) in a process of its own; resolves at its first line of output. */
const inProcess = async (code: string): Promise<{ pid: number; said: string }> => {
  const module = new URL("../../src/embedded/server.ts", import.meta.url).href;
  const script = `
    const { startServer } = await import(${JSON.stringify(module)});
    const dataDir = ${JSON.stringify(join(folder, "pg"))};
    ${code}`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const said = await new Promise<string>((resolve) => {
    child.stdout.once("data", (data: Buffer) => resolve(data.toString()));
    child.once("exit", () => resolve(""));
  });
  return { pid: child.pid ?? 0, said };
};

const startAndTell = "const server = await startServer({ dataDir, fsync: false }); console.log(server.pid);";

describe("when its owner ends without stopping it", () => {
  test.each([
    ["SIGKILL", `${startAndTell} setInterval(() => {}, 1000);`],
    ["SIGTERM", `${startAndTell} setInterval(() => {}, 1000);`],
    ["SIGINT", `${startAndTell} setInterval(() => {}, 1000);`],
    [null, startAndTell],
    [null, `${startAndTell} process.exit(3);`],
  ] as const)("by %s, the server ends too", async (name, code) => {
    const owner = await inProcess(code);
    const server = Number(owner.said);
    expect(server).toBeGreaterThan(1);
    if (name !== null) {
      expect(isAlive(server)).toBe(true);
      signal(owner.pid, name);
    }
    await eventually(() => !isAlive(server));
  });

  test("and the guard too, the next start stops the server that was left", async () => {
    const owner = await inProcess(`${startAndTell} setInterval(() => {}, 1000);`);
    const left = Number(owner.said);
    const guards = childrenOf(owner.pid).filter((pid) => commandLine(pid)?.includes("coregent-guard"));
    expect(guards).toHaveLength(1);
    for (const guard of guards) signal(guard, "SIGKILL");
    signal(owner.pid, "SIGKILL");
    await eventually(() => !isAlive(owner.pid));
    expect(isAlive(left)).toBe(true);
    await using server = await start();
    expect(isAlive(left)).toBe(false);
    expect(server.running).toBe(true);
  });
});

test("two processes do not fight for a data folder", async () => {
  const owner = await inProcess(`${startAndTell} setInterval(() => {}, 1000);`);
  await expect(start()).rejects.toThrow(`in use by process ${owner.pid}`);
  signal(owner.pid, "SIGKILL");
  await eventually(() => !isAlive(Number(owner.said)));
  await (await start()).stop();
});

test("a pid file that names a process which is no server of this folder harms nobody", async () => {
  const server = await start();
  await server.kill();
  const pidFile = join(server.place, "postmaster.pid");
  const text = await readFile(pidFile, "utf8");
  const bystander = spawn("sleep", ["60"]);
  await writeFile(pidFile, text.replace(/^\d+/, String(bystander.pid)));
  await server.start();
  expect(isAlive(bystander.pid ?? 0)).toBe(true);
  bystander.kill();
  await server.stop();
});

test("missing links of libraries are made again, as often as asked", async () => {
  const native = join(folder, "native");
  await mkdir(join(native, "lib"), { recursive: true });
  await writeFile(join(native, "lib", "libx.so.1.2"), "");
  const links = [{ source: "native/lib/libx.so.1.2", target: "native/lib/libx.so.1" }];
  await writeFile(join(native, "pg-symlinks.json"), JSON.stringify(links));
  await linkLibraries(folder);
  await Promise.all([linkLibraries(folder), linkLibraries(folder)]);
  expect(await readlink(join(native, "lib", "libx.so.1"))).toBe("libx.so.1.2");
});

describe.runIf(process.getuid?.() === 0)("as root", () => {
  test("servers run as another user", async () => {
    await using server = await start();
    const status = await readFile(`/proc/${server.pid}/status`, "utf8");
    expect(Number(/^Uid:\s+(\d+)/m.exec(status)?.[1])).toBeGreaterThan(0);
  });

  test("a data folder that their user cannot reach lies in the cache, and is removed from there", async () => {
    await chmod(folder, 0o700);
    const server = await start();
    expect(server.place.startsWith(await cacheFolder())).toBe(true);
    await query(server, "CREATE TABLE t AS SELECT 42 AS n");
    await server.stop();
    await using again = await start();
    expect(again.place).toBe(server.place);
    expect(await query(again, "SELECT n FROM t")).toBe(42);
    await again.stop();
    await removeDataFolder(join(folder, "pg"));
    await expect(stat(again.place)).rejects.toThrow("ENOENT");
  });

  test("binaries that their user cannot reach are copied, links and all", async () => {
    const original = await findBinaries(18, serverUser());
    // The package as it is in a checkout below a folder that only root can enter.
    const hidden = join(folder, "hidden");
    await mkdir(join(hidden, "node_modules"), { recursive: true });
    await copyTree(join(original.folder, ".."), join(hidden, "package"));
    await rename(join(hidden, "package"), join(hidden, "node_modules", "package"));
    await chmod(hidden, 0o700);
    const found = await findBinaries(18, serverUser(), join(hidden, "node_modules", "package"));
    expect(found.folder.startsWith(await cacheFolder())).toBe(true);
    expect(await canRun(found.postgres, serverUser())).toBe(true);
    await rm(join(found.folder, ".."), { recursive: true });
  });
});
