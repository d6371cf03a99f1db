import { readFile } from "node:fs/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { registerDrain, registerResume } from "../../src/cli/drain.ts";
import { registerStatus } from "../../src/cli/status.ts";
import { startCluster, type TestCluster } from "../../src/testing/index.ts";
import { eventually } from "../support/eventually.ts";
import { run, type Ran } from "./harness.ts";

const schema = "CREATE TABLE note (id text PRIMARY KEY, body text, home_region text NOT NULL)";

let cluster: TestCluster;
beforeAll(async () => {
  cluster = await startCluster({
    regions: 3,
    schema,
    tables: [{ name: "public.note", owner: "home_region" }],
    writer: { probeMs: 200, probeTimeoutMs: 500, maxWaitMs: 1_000, calmMs: 500 },
  });
}, 120_000);
afterAll(() => cluster?.stop());

const coregent = (...argv: string[]): Promise<Ran> =>
  run([...argv, "--config", cluster.configFile], {
    commands: [registerDrain, registerResume, registerStatus],
  });

interface Answered {
  readonly endpoint: string;
  readonly status: number;
  readonly region: string | null;
  readonly text: string;
}

/** Writes through one endpoint, one after the other, until it is told to stop: rows of b, new and old. */
class Stream {
  readonly answers: Answered[] = [];
  readonly #endpoint: string;
  readonly #ended: Promise<void>;
  readonly #stopping = new AbortController();

  constructor(endpoint: string) {
    this.#endpoint = endpoint;
    this.#ended = this.#run();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#ended;
  }

  async #run(): Promise<void> {
    const rows = `${cluster.region(this.#endpoint).api}/v1/tables/note/rows`;
    const headers = { "content-type": "application/json" };
    for (let n = 0; !this.#stopping.signal.aborted; n += 1) {
      const body = JSON.stringify({ body: String(n), home_region: "b" });
      const response =
        n % 2 === 0
          ? await fetch(rows, { method: "POST", headers, body })
          : await fetch(`${rows}/of-${this.#endpoint}`, { method: "PATCH", headers, body });
      const text = await response.text();
      const { status } = response;
      const region = response.headers.get("coregent-region");
      this.answers.push({ endpoint: this.#endpoint, status, region, text });
    }
  }

  /** Until so many more requests have been answered. */
  async more(count: number): Promise<readonly Answered[]> {
    const from = this.answers.length;
    await eventually(() => expect(this.answers.length).toBeGreaterThan(from + count), { timeoutMs: 20_000 });
    // The first may have been under way.
    return this.answers.slice(from + 1);
  }
}

test("a region is drained, taken down, brought back and resumed, and no write fails", async () => {
  for (const { name } of cluster.regions) {
    await cluster.region("b").sql`INSERT INTO note VALUES (${`of-${name}`}, '', 'b')`;
  }
  await cluster.converged();
  const streams = ["a", "b"].map((endpoint) => new Stream(endpoint));
  const each = (count = 20) => Promise.all(streams.map((stream) => stream.more(count)));
  const writtenBy = (answers: readonly (readonly Answered[])[]) =>
    new Set(answers.flat().map(({ region }) => region));
  try {
    expect(writtenBy(await each())).toEqual(new Set(["b"]));

    const drained = await coregent("drain", "b");
    expect(drained, drained.stderr).toMatchObject({ code: 0 });
    expect(drained.stdout).toContain("what it wrote is in a and c.\nIt can be taken down.");
    // What it said is so: all that was ever written at b is in both others, while writes go on.
    const [there] = await cluster.region("b")
      .sql`SELECT max(cg_version)::text AS v FROM note WHERE cg_version & 1023 = 2`;
    for (const other of ["a", "c"]) {
      const [here] = await cluster.region(other)
        .sql`SELECT max(cg_version)::text AS v FROM note WHERE cg_version & 1023 = 2`;
      expect(here).toEqual(there);
    }
    expect(writtenBy(await each())).not.toContain("b");
    expect((await coregent("status")).stdout).toContain("takes no writes from endpoints since");

    await cluster.region("b").server.stop();
    await each();
    await cluster.region("b").server.start();
    await each();
    expect(writtenBy(await each())).not.toContain("b");

    expect(await coregent("resume", "b")).toMatchObject({ code: 0 });
    await eventually(async () => expect(writtenBy(await each(2))).toEqual(new Set(["b"])), {
      timeoutMs: 20_000,
    });
  } finally {
    await Promise.all(streams.map((stream) => stream.stop()));
  }
  expect(streams.flatMap(({ answers }) => answers).filter(({ status }) => status >= 300)).toEqual([]);
  await cluster.converged();
});

test("what is outstanding is said with 3, and waited for when the command is run again", async () => {
  const session = await cluster.region("c").connect();
  cluster.cut("c", "a");
  try {
    await session.query("BEGIN");
    await session.query("INSERT INTO note VALUES ('open', '', 'c')");
    const open = await coregent("drain", "c", "--wait", "4s");
    expect(open.code).toBe(3);
    expect(open.stdout).toContain("transactions of applications that are open and have written there: 1");
    await session.query("COMMIT");
    const unseen = await coregent("drain", "c", "--wait", "4s");
    expect(unseen.code).toBe(3);
    expect(unseen.stdout).toContain("c is drained, but it should not be taken down yet:\n  a may lack some");
    cluster.heal();
    expect(await coregent("drain", "c")).toMatchObject({ code: 0 });
    expect(await cluster.region("a").sql`SELECT id FROM note WHERE id = 'open'`).toEqual([{ id: "open" }]);
  } finally {
    cluster.heal();
    await session.end();
  }
});

test("who drained and resumed a region is on record, in its database and in its agent's log", async () => {
  const region = cluster.region("c");
  expect(await coregent("resume", "c")).toMatchObject({ code: 0 });
  await eventually(async () => {
    const log = await readFile(region.agent.logFile, "utf8");
    const audits = log
      .split("\n")
      .filter((line) => line.includes("an administrator's command"))
      .map((line) => (JSON.parse(line) as { audit: { action: string; detail: string; by: string } }).audit);
    expect(audits.map(({ action, detail }) => `${action}: ${detail}`).slice(-4)).toEqual([
      "drain: takes no more writes from endpoints",
      "drain: takes no more writes from endpoints, as before",
      "drain: takes no more writes from endpoints, as before",
      "resume: takes writes again",
    ]);
    expect(audits.at(-1)?.by).toMatch(/@/);
  });
  expect(
    await region.sql`SELECT action, role = session_user AS here FROM coregent.audit ORDER BY id DESC LIMIT 1`,
  ).toEqual([{ action: "resume", here: true }]);
  expect(await coregent("drain", "c", "--wait", "1ms")).toMatchObject({ code: 3 });
});

test("the last region is not drained", async () => {
  expect(await coregent("drain", "b", "--wait", "1ms")).toMatchObject({ code: 3 });
  const last = await coregent("drain", "a");
  expect(last.code).toBe(1);
  expect(last.stderr).toContain("no other region could take the writes of a: b is drained, c is drained");
  expect(last.stderr).toContain("CG-DRAIN-REFUSED");
  expect(await cluster.region("a").sql`SELECT drained_at FROM coregent.local`).toEqual([
    { drained_at: null },
  ]);
  expect((await coregent("resume", "b")).stdout).toContain("b takes writes again");
  expect((await coregent("resume", "a")).stdout).toContain("a was not drained");
});

test("a region that others have still to copy tables from is not to be taken down yet", async () => {
  expect(await coregent("resume", "c")).toMatchObject({ code: 0 });
  const [a, b, c] = cluster.regions;
  await a?.sql("INSERT INTO note SELECT 'copied' || n, 'x', 'a' FROM generate_series(1, 4000) AS n");
  await cluster.converged();
  const due = (): Promise<Record<string, unknown>[]> =>
    cluster.region("b").sql("SELECT misfit IS NULL AS fits FROM coregent.table_sync WHERE origin = 1");
  const addColumn = "ALTER TABLE note ADD COLUMN mood text";

  // It does not fit in b: what is streamed is confirmed, and this table's changes wait.
  await a?.sql(addColumn);
  await a?.sql("INSERT INTO note (id, body, home_region, mood) VALUES ('moody', 'x', 'a', 'good')");
  await eventually(async () => expect(await due()).toEqual([{ fits: false }]));
  const unfit = await coregent("drain", "a", "--wait", "2500ms");
  expect(unfit.code).toBe(3);
  expect(unfit.stdout).toContain("b has still to copy public.note from there\n");

  // It fits now, and is copied over a line that takes its time.
  cluster.slow("a", "b", { bytesPerSecond: 50_000 });
  await b?.sql(addColumn);
  await c?.sql(addColumn);
  await eventually(async () => expect(await due()).toEqual([{ fits: true }]));
  const copying = await coregent("drain", "a", "--wait", "2500ms");
  expect(copying.code).toBe(3);
  expect(copying.stdout).toContain("b has still to copy public.note from there\n");
  cluster.slow("a", "b", { bytesPerSecond: null });
  expect(await coregent("drain", "a")).toMatchObject({ code: 0 });
  expect(await b?.sql("SELECT mood FROM note WHERE id = 'moody'")).toEqual([{ mood: "good" }]);
});
