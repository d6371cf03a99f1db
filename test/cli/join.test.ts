import { spawn } from "node:child_process";
import { afterAll, beforeAll, expect, test } from "vitest";
import { registerJoin } from "../../src/cli/join.ts";
import { initCluster } from "../../src/postgres/init.ts";
import { startCluster, type TestCluster } from "../../src/testing/index.ts";
import { coregentCommand } from "../../src/testing/program.ts";
import { eventually } from "../support/eventually.ts";
import { run } from "./harness.ts";

/** `coregent join` on a running cluster, as a process of its own. */

let cluster: TestCluster;
const rows = 20_000;

beforeAll(async () => {
  cluster = await startCluster({
    regions: 2,
    schema: "CREATE TABLE notes (id text PRIMARY KEY, body text NOT NULL, n int NOT NULL DEFAULT 0)",
  });
  await cluster
    .region("a")
    .sql(`INSERT INTO notes SELECT 'a' || i, repeat('x', 50) FROM generate_series(1, ${rows}) i`);
  await cluster
    .region("b")
    .sql("INSERT INTO notes SELECT 'b' || i, repeat('x', 50) FROM generate_series(1, 1000) i");
  await cluster.region("a").sql("DELETE FROM notes WHERE id LIKE 'a%7'");
  await cluster.converged();
}, 120_000);
afterAll(() => cluster?.stop());

let writersMade = 0;

/** Writes in these regions until it is ended: inserts, updates, deletes. */
const writers = (names: readonly string[]): AsyncDisposable & { end: () => Promise<number> } => {
  let ended = false;
  let count = 0;
  const prefix = `writer ${(writersMade += 1)}`;
  const done = names.map(async (name) => {
    const region = cluster.region(name);
    for (let i = 0; !ended; i += 1) {
      const some = `a${((i * 7919) % rows) + 1}`;
      await region.sql("INSERT INTO notes VALUES ($1, 'while joining')", [`${prefix} ${name} ${i}`]);
      await region.sql("UPDATE notes SET n = n + 1 WHERE id = $1", [some]);
      if (i % 5 === 0)
        await region.sql("DELETE FROM notes WHERE id = $1", [`a${((i * 104_729) % rows) + 1}`]);
      count += 1;
      // A steady load, not all that the machine can do.
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  });
  // A failure is told by `end`.
  for (const each of done) each.catch(() => undefined);
  const end = async (): Promise<number> => {
    ended = true;
    await Promise.all(done);
    return count;
  };
  return { end, [Symbol.asyncDispose]: async () => void (await end()) };
};

const same = async (names: readonly string[]): Promise<void> => {
  const image = async (name: string): Promise<unknown> =>
    (
      await cluster.region(name).sql("SELECT count(*), sum(hashtextextended(t::text, 0)) AS sum FROM notes t")
    )[0];
  await eventually(
    async () => {
      const [first, ...others] = await Promise.all(names.map(image));
      for (const other of others) expect(other).toEqual(first);
    },
    { timeoutMs: 30_000, everyMs: 100 },
  );
};

test(
  "a region is added while writes go on everywhere, killed in the middle, and joined again (FAULTS 10, 11)",
  { timeout: 120_000 },
  async () => {
    const late = await cluster.addRegion("late");
    await using writing = writers(["a", "b"]);
    const args = ["join", "--region", "late", "--config", cluster.configFile];
    const command = coregentCommand(args);
    const child = spawn(command.file, command.args, {
      cwd: cluster.folder,
      env: command.env,
      stdio: "ignore",
    });
    const ended = new Promise((resolve) => child.once("close", resolve));
    await eventually(
      async () => {
        const [done] = await late.sql<{ n: string }>("SELECT sum(rows_done) AS n FROM coregent.table_sync");
        return Number(done?.n) > 0;
      },
      { timeoutMs: 30_000, everyMs: 5 },
    );
    child.kill("SIGKILL");
    await ended;
    expect((await late.sql("SELECT FROM coregent.table_sync")).length).toBeGreaterThan(0);

    const result = await cluster.coregent(["join", "--region", "late", "--json"], 90_000);
    expect(result.code).toBe(0);
    const told = JSON.parse(result.stdout) as Record<string, unknown>;
    expect(told).toMatchObject({ region: "late", absent: [], misfits: [] });
    // Interrupted once, so not all has to come again; but the tables that were not done do.
    expect(told["states"]).toBeGreaterThan(1000);
    await cluster.startAgent("late");
    expect(await writing.end()).toBeGreaterThan(10);
    await late.sql("INSERT INTO notes VALUES ('from the newcomer', '')");
    await cluster.converged();
    expect(await late.sql("SELECT FROM notes WHERE id = 'a7'")).toEqual([]);
    expect(await cluster.region("a").sql("SELECT FROM notes WHERE id = 'from the newcomer'")).toHaveLength(1);
  },
);

test(
  "a region whose slot was dropped is joined again, with its agent at work",
  { timeout: 120_000 },
  async () => {
    await cluster.stopAgent("late");
    await cluster.region("a").sql("SELECT pg_drop_replication_slot('coregent_test_1_3')");
    await cluster.region("a").sql("DELETE FROM notes WHERE id LIKE 'a1%'");
    await cluster.region("a").sql("INSERT INTO notes VALUES ('without a slot', '')");
    await using writing = writers(["late", "b"]);
    await cluster.startAgent("late");
    const result = await cluster.coregent(["join", "--region", "late"], 90_000);
    expect(result).toMatchObject({ code: 0 });
    expect(result.stdout).toContain("streams from every peer");
    await writing.end();
    await cluster.converged();
    expect(await cluster.region("late").sql("SELECT FROM notes WHERE id = 'a11'")).toEqual([]);
  },
);

test("progress on a terminal: rows, rate and time left", { timeout: 60_000 }, async () => {
  const argv = ["join", "--region", "late", "--from", "a", "--config", cluster.configFile];
  const result = await run(argv, {
    terminal: true,
    commands: [registerJoin],
    services: {
      initCluster: (topology, options) => initCluster(topology, { ...options, check: async () => [] }),
      checkCluster: async () => [],
      uninstallCluster: () => Promise.reject(new Error("not asked for")),
    },
  });
  expect(result.code).toBe(0);
  expect(result.stderr).toMatch(/\d+ of \d{4,} states, \d+\/s, \d+ s left/);
  expect(result.stdout).toMatch(/late has merged \d{4,} states in \d+\.\d s/);
});

test(
  "all states of one peer, while another is away: degraded, and said so",
  { timeout: 120_000 },
  async () => {
    await cluster.kill("b");
    const result = await cluster.coregent(["join", "--region", "late", "--from", "a", "--json"], 90_000);
    expect(result.code).toBe(3);
    expect(result.stderr).toContain("b");
    expect(JSON.parse(result.stdout)).toMatchObject({ absent: ["b"] });
    await same(["a", "late"]);
    await cluster.restart("b");
    await cluster.converged();
  },
);

test("what stands in the way is told, and nothing is changed", { timeout: 60_000 }, async () => {
  const other = await cluster.addRegion("refused");
  await other.sql("ALTER TABLE notes DROP CONSTRAINT notes_pkey");
  const result = await cluster.coregent(["join", "--region", "refused"]);
  expect(result.code).toBe(1);
  expect(result.stderr).toContain("notes");
  expect(await other.sql("SELECT to_regnamespace('coregent') AS schema")).toEqual([{ schema: null }]);
  expect((await cluster.coregent(["join", "--region", "nowhere"])).code).not.toBe(0);
});
