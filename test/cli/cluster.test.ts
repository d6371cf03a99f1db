import { afterAll, beforeAll, expect, test } from "vitest";
import { startCluster, type TestCluster, type TestRegion } from "../../src/testing/index.ts";
import { registerCheck } from "../../src/cli/check.ts";
import { registerConfig } from "../../src/cli/config.ts";
import { registerInit } from "../../src/cli/init.ts";
import { registerRepair } from "../../src/cli/repair.ts";
import { registerStatus } from "../../src/cli/status.ts";
import { registerVerify } from "../../src/cli/verify.ts";
import { checkCluster } from "../../src/postgres/check.ts";
import { initCluster } from "../../src/postgres/init.ts";
import { uninstallCluster } from "../../src/postgres/uninstall.ts";
import { eventually } from "../support/eventually.ts";
import { run, type Ran } from "./harness.ts";

/**
 * The operator's commands on one real cluster; the tests go on from one another. Each of 0, 2, 3 and 4 is also seen as
 * the exit code of a process (`cluster.coregent`); else the commands run in this process, which is many times faster.
 */

const commands = [
  registerCheck,
  registerConfig,
  registerInit,
  registerRepair,
  registerStatus,
  registerVerify,
];
const services = { checkCluster, initCluster, uninstallCluster };

const schema = `
  CREATE TABLE place (id text PRIMARY KEY, name text NOT NULL);
  CREATE TABLE item (id text PRIMARY KEY, note text, handle text UNIQUE,
                     place text CONSTRAINT item_place REFERENCES place);
  CREATE TABLE beat (id text PRIMARY KEY, n int NOT NULL DEFAULT 0)`;

let cluster: TestCluster;
let a: TestRegion;
let b: TestRegion;
let c: TestRegion;
beforeAll(async () => {
  cluster = await startCluster({ regions: 3, schema, install: false, cluster: "commands" });
  [a, b, c] = [cluster.region("a"), cluster.region("b"), cluster.region("c")];
}, 120_000);
afterAll(() => cluster?.stop());

const inEvery = async (sql: string): Promise<void> => {
  await Promise.all(cluster.regions.map((region) => region.sql(sql)));
};

/** What no application does, and an operator's mistake may: past the triggers, so nothing is stamped. */
const pastTriggers = async (region: TestRegion, sql: string): Promise<void> => {
  const session = await region.connect();
  try {
    await session.query("SET session_replication_role = replica");
    const { rowCount } = await session.query(sql);
    expect(rowCount).toBe(1);
  } finally {
    await session.end();
  }
};

/** Every region goes on writing to a table of its own: so what the streams have passed is recorded at once, not when idle. */
const whileWriting = async <T>(work: () => Promise<T>): Promise<T> => {
  let over = false;
  const writers = cluster.regions.map(async (region) => {
    await region.sql("INSERT INTO beat VALUES ($1) ON CONFLICT DO NOTHING", [region.name]);
    while (!over) {
      await region.sql("UPDATE beat SET n = n + 1 WHERE id = $1", [region.name]);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  });
  try {
    return await work();
  } finally {
    over = true;
    await Promise.all(writers);
  }
};

const here = (args: readonly string[]): Promise<Ran> =>
  run([...args, "--config", cluster.configFile], { commands, services });

/** The command's exit code and its data: with --json standard output is one line, which is JSON. */
const json = async (...args: string[]): Promise<{ code: number | null; data: unknown }> => {
  const { code, stdout, stderr } = await here([...args, "--json"]);
  expect(stdout.split("\n"), stderr).toEqual([expect.stringMatching(/^\{.*\}$/), ""]);
  return { code, data: JSON.parse(stdout) as unknown };
};

/** Exit code and text for people, which the tests see from its first word on: notes and progress are not in it. */
const say = async (...args: string[]): Promise<[number | null, string]> => {
  const { code, stdout } = await here(args);
  return [code, stdout];
};

const table = (name: string, rest: object): object =>
  expect.objectContaining({ tables: expect.arrayContaining([expect.objectContaining({ name, ...rest })]) });

test("config: the file as it was read", async () => {
  const [text, { code, data }] = await Promise.all([say("config"), json("config")]);
  expect(text).toEqual([0, expect.stringMatching(/commands[\s\S]*\ba\b[\s\S]*\bb\b[\s\S]*\bc\b/)]);
  expect(code).toBe(0);
  expect(data).toMatchObject({ cluster: "commands", regions: [{ name: "a" }, { name: "b" }, { name: "c" }] });
});

test("before init nothing is replicated, and verify and status do not call that well", async () => {
  const [status, verify, unknown] = await Promise.all([
    json("status"),
    json("verify"),
    here(["verify", "--table", "public.item"]),
  ]);
  expect(status).toMatchObject({ code: 3, data: { severity: "critical" } });
  expect(verify).toMatchObject({ code: 3, data: { verdict: "degraded" } });
  // What is wrong is that nothing is installed, and not how the command was called.
  expect(unknown).toMatchObject({ code: 3, stdout: expect.stringContaining("Coregent is not installed") });
});

test("check: 3 while something is in the way, which init refuses, changing nothing; then 0", async () => {
  await inEvery("CREATE TABLE bad (id numeric PRIMARY KEY)");
  const [text, checked] = await Promise.all([say("check"), json("check")]);
  expect(text).toEqual([
    3,
    expect.stringMatching(/^not ready[\s\S]*public\.bad\.id[\s\S]*\[key_not_bytewise\]/),
  ]);
  expect(checked).toMatchObject({ code: 3, data: { verdict: "critical" } });

  expect((await cluster.coregent(["check"])).code).toBe(3);
  const refused = await here(["init"]);
  expect(refused).toMatchObject({ code: 1, stdout: "nothing was changed\n" });
  expect(refused.stderr).toContain("key_not_bytewise");
  expect(await json("init")).toMatchObject({ code: 1, data: { refused: true } });
  for (const region of cluster.regions) {
    expect(await region.sql("SELECT FROM pg_namespace WHERE nspname = 'coregent'")).toEqual([]);
  }

  await inEvery("DROP TABLE bad");
  const [code, ready] = await say("check");
  expect([code, ready]).toEqual([0, expect.stringMatching(/^ready .*3 warning/)]);
});

test("init: what was done, and a second time that there is nothing to do", async () => {
  const first = await cluster.coregent(["init"]);
  expect(first.code).toBe(0);
  expect(first.stdout).toContain("public.item");
  // Notes are not data.
  expect(first.stderr).toContain("unique_after_the_fact");
  expect(first.stdout).not.toContain("unique_after_the_fact");
  const second = await here(["init"]);
  expect(second).toMatchObject({
    code: 0,
    stdout: "a\n  nothing to do\n\nb\n  nothing to do\n\nc\n  nothing to do\n",
  });
  const third = await json("init");
  expect(third).toMatchObject({
    code: 0,
    data: { refused: false, regions: [{ changes: [] }, { changes: [] }, { changes: [] }] },
  });
});

test("a cluster that is well: status, check and verify end with 0", async () => {
  await Promise.all(cluster.regions.map(({ name }) => cluster.startAgent(name)));
  await a.sql("INSERT INTO place VALUES ('p', 'Chisinau')");
  for (const region of cluster.regions) {
    await region.sql("INSERT INTO item VALUES ($1, 'from here', $1)", [region.name]);
  }
  await cluster.converged();
  await eventually(async () => {
    expect(await json("status")).toMatchObject({
      code: 0,
      data: { severity: "ok", regions: [{ region: "a" }, { region: "b" }, { region: "c" }] },
    });
  });
  expect(await say("status")).toEqual([0, expect.stringMatching(/^OK {2}commands: all regions replicate/)]);
  const [check, whole, one, deep] = await Promise.all([
    json("check"),
    say("verify"),
    json("verify", "--table", "public.item"),
    json("verify", "--deep"),
  ]);
  expect(check.code).toBe(0);
  expect(whole).toEqual([
    0,
    expect.stringMatching(/^equal: a, b, c hold the same[\s\S]*public\.place +equal/),
  ]);
  expect(one).toMatchObject({
    code: 0,
    data: { verdict: "equal", tables: [{ name: "public.item", regions: { a: { rows: "3" } } }] },
  });
  expect(deep).toMatchObject({ code: 0, data: { verdict: "equal", deep: true } });
  expect(await say("repair")).toEqual([0, expect.stringMatching(/^nothing was merged\n\nequal: /)]);
});

test("called wrongly, 2", async () => {
  const calls = [
    ["verify", "--table", "public.none"],
    ["verify", "--wait", "-1"],
    ["repair", "--form", "a"],
    [],
  ];
  for (const call of await Promise.all(calls.map(here))) {
    expect(call).toMatchObject({ code: 2, stdout: "" });
    expect(call.stderr).not.toBe("");
  }
  expect((await cluster.coregent(["verify", "--table", "public.none"])).code).toBe(2);
  expect(await here(["repair", "--from", "d"])).toMatchObject({ code: 1, stdout: "" });
});

test("a row that vanished in one region: diverged, 4, until repair has merged it back", async () => {
  await pastTriggers(b, "DELETE FROM item WHERE id = 'a'");
  const items = ["--table", "public.item", "--wait", "3"];
  const [text, data, other] = await whileWriting(() =>
    Promise.all([
      cluster.coregent(["verify", ...items]).then(({ code, stdout }) => [code, stdout]),
      json("verify", ...items),
      say("verify", "--table", "public.place"),
    ]),
  );
  expect(text).toEqual([
    4,
    expect.stringMatching(/^diverged: [\s\S]*\["a"\] {2}different states\n[\s\S]*b {2}absent/),
  ]);
  expect(data).toMatchObject({
    code: 4,
    data: {
      verdict: "diverged",
      tables: [{ differences: [{ key: '["a"]', states: { b: { kind: "absent" } } }] }],
    },
  });
  expect(other[0]).toBe(0);
  const repaired = await whileWriting(() => json("repair", ...items));
  expect(repaired).toMatchObject({
    code: 0,
    data: { merged: [{ table: "public.item", region: "b", rows: 1 }], after: { verdict: "equal" } },
  });
  expect(await b.sql("SELECT note FROM item WHERE id = 'a'")).toEqual([{ note: "from here" }]);
});

test("content that differs under one version: only --deep sees it, and --from says whose is right", async () => {
  await pastTriggers(c, "UPDATE item SET note = 'by hand' WHERE id = 'b'");
  const [shallow, deep] = await Promise.all([say("verify"), json("verify", "--deep")]);
  expect(shallow[0]).toBe(0);
  expect(deep).toMatchObject({ code: 4, data: { verdict: "diverged" } });
  expect(deep.data).toEqual(
    table("public.item", { differences: [expect.objectContaining({ key: '["b"]', kind: "content" })] }),
  );
  const [code, text] = await say("repair", "--from", "c");
  expect([code, text]).toEqual([0, expect.stringContaining("1 rows stamped anew")]);
  await cluster.converged();
  for (const region of cluster.regions) {
    expect(await region.sql("SELECT note FROM item WHERE id = 'b'")).toEqual([{ note: "by hand" }]);
  }
  expect((await json("verify", "--deep")).code).toBe(0);
});

test("changes on their way: degraded, 3, and not diverged", async () => {
  cluster.cut("a", "b");
  await a.sql("UPDATE item SET note = 'on its way' WHERE id = 'c'");
  await eventually(async () => {
    expect(await c.sql("SELECT note FROM item WHERE id = 'c'")).toEqual([{ note: "on its way" }]);
  });
  const verified = await json("verify", "--wait", "0.2");
  expect(verified).toMatchObject({ code: 3, data: { verdict: "degraded" } });
  expect(verified.data).toEqual(
    table("public.item", { differences: [expect.objectContaining({ key: '["c"]', kind: "inFlight" })] }),
  );
});

test("a row whose parent was deleted elsewhere: degraded, 3, until somebody decides", async () => {
  // a and b are still cut off from each other.
  await a.sql("DELETE FROM place WHERE id = 'p'");
  await b.sql("INSERT INTO item (id, place) VALUES ('orphan', 'p')");
  cluster.heal();
  await cluster.converged();
  const [text, data] = await Promise.all([say("verify"), json("verify", "--table", "public.item")]);
  expect(text).toEqual([
    3,
    expect.stringMatching(/^degraded: [\s\S]*public\.item \(item_place\) -> public\.place: 1\n/),
  ]);
  const orphan = { constraint: "item_place", count: "1", keys: ['["orphan"]'] };
  expect(data).toMatchObject({
    code: 3,
    data: { verdict: "degraded", orphans: ["a", "b", "c"].map((region) => ({ region, ...orphan })) },
  });
  expect((await say("repair"))[0]).toBe(3);
  await c.sql("DELETE FROM item WHERE id = 'orphan'");
  await cluster.converged();
  expect((await say("verify"))[0]).toBe(0);
});

test("one unique value taken twice: the rows are set aside, verify and status end with 3", async () => {
  cluster.cut("a", "b");
  await a.sql("INSERT INTO item (id, handle) VALUES ('one', 'taken')");
  await b.sql("INSERT INTO item (id, handle) VALUES ('two', 'taken')");
  cluster.heal();
  await eventually(
    async () => {
      for (const [region, key] of [
        [a, '["two"]'],
        [b, '["one"]'],
      ] as const) {
        expect(await region.sql("SELECT key FROM coregent.quarantine")).toEqual([{ key }]);
      }
      expect(await c.sql("SELECT count(*)::int AS n FROM coregent.quarantine")).toEqual([{ n: 1 }]);
    },
    { timeoutMs: 20_000 },
  );
  const [verified, status, statusText] = await Promise.all([json("verify"), json("status"), say("status")]);
  expect(verified).toMatchObject({ code: 3, data: { verdict: "degraded" } });
  expect(verified.data).toEqual(
    table("public.item", {
      differences: expect.arrayContaining([
        expect.objectContaining({ key: '["one"]', kind: "quarantined" }),
        expect.objectContaining({ key: '["two"]', kind: "quarantined" }),
      ]),
    }),
  );
  expect(status.code).toBe(3);
  expect(status.data).toMatchObject({
    checks: expect.arrayContaining([
      expect.objectContaining({ name: "quarantine", subject: "a", remedy: expect.any(String) }),
    ]),
  });
  expect(statusText[0]).toBe(3);
  expect((await json("repair")).code).toBe(3);

  await b.sql("UPDATE item SET handle = 'another' WHERE id = 'two'");
  await cluster.converged();
  expect(await json("verify", "--deep")).toMatchObject({ code: 0, data: { verdict: "equal" } });
});

test("a region that is away: the others are compared, 3; check and init say which", async () => {
  await cluster.kill("c");
  const [verified, repaired, status, check, init] = await Promise.all([
    json("verify"),
    json("repair"),
    json("status"),
    json("check"),
    json("init"),
  ]);
  expect(verified).toMatchObject({
    code: 3,
    data: {
      verdict: "degraded",
      regions: [{ problem: null }, { problem: null }, { name: "c", problem: expect.any(String) }],
    },
  });
  expect(repaired).toMatchObject({ code: 3, data: { after: { verdict: "degraded" } } });
  expect(status).toMatchObject({ code: 3, data: { severity: "critical" } });
  const findings = expect.arrayContaining([expect.objectContaining({ region: "c", code: "unreachable" })]);
  expect(check).toMatchObject({ code: 3, data: { verdict: "critical", findings } });
  expect(init).toMatchObject({ code: 1, data: { refused: true, findings } });
});

test("no region can be read: an error, 1, for status", async () => {
  await Promise.all([cluster.kill("a"), cluster.kill("b")]);
  const [status, verified] = await Promise.all([json("status"), json("verify")]);
  expect(status.code).toBe(1);
  expect(verified).toMatchObject({ code: 3, data: { verdict: "degraded", tables: [] } });
});
