import { afterAll, beforeAll, expect, test } from "vitest";
import { startCluster, type TestCluster } from "../../src/testing/index.ts";
import { eventually } from "../support/eventually.ts";

/** Each fault of the kit on a running cluster: it has its effect, and after it the regions end equal. */

let cluster: TestCluster;
beforeAll(async () => {
  cluster = await startCluster({
    regions: 2,
    schema: "CREATE TABLE notes (id text PRIMARY KEY, body text NOT NULL)",
  });
  await cluster.converged();
});
afterAll(() => cluster?.stop());

const insert = async (region: string, id: string, body = ""): Promise<void> => {
  await cluster.region(region).sql`INSERT INTO notes VALUES (${id}, ${body})`;
};
const has = async (region: string, id: string): Promise<boolean> =>
  (await cluster.region(region).sql`SELECT 1 FROM notes WHERE id = ${id}`).length > 0;
const arrives = (region: string, id: string): Promise<boolean> =>
  eventually(() => has(region, id), { timeoutMs: 20_000, what: `${id} in region ${region}` });

test("a cut one way: changes of b reach a, those of a wait until it heals", async () => {
  cluster.cut("a", "b", { oneWay: true });
  await insert("a", "one-way from a");
  await insert("b", "one-way from b");
  await arrives("a", "one-way from b");
  expect(await has("b", "one-way from a")).toBe(false);
  cluster.heal();
  await arrives("b", "one-way from a");
  await cluster.converged();
});

test("a line that breaks its connections is taken up again", async () => {
  cluster.cut("a", "b", { mode: "reset" });
  await insert("a", "reset from a");
  await insert("b", "reset from b");
  expect(await has("b", "reset from a")).toBe(false);
  cluster.heal();
  await cluster.converged();
  expect(await has("b", "reset from a")).toBe(true);
});

test("a stopped process does nothing, and goes on where it was", async () => {
  cluster.pauseAgent("b");
  await insert("a", "while b is paused");
  await insert("b", "from b, paused");
  await arrives("a", "from b, paused");
  expect(await has("b", "while b is paused")).toBe(false);
  cluster.resumeAgent("b");
  await arrives("b", "while b is paused");
});

test("an agent that is killed leaves its work to the next one", async () => {
  const before = cluster.region("b").agent.pid;
  await cluster.kill("b", { what: "agent" });
  expect(cluster.region("b").server.running).toBe(true);
  await insert("a", "without an agent at b");
  await cluster.restart("b");
  expect(cluster.region("b").agent.pid).not.toBe(before);
  await arrives("b", "without an agent at b");
});

test("a second agent takes over from a killed one", async () => {
  const standby = await cluster.standbyAgent("b");
  standby.spawn();
  try {
    await eventually(async () => {
      const answer = await fetch(`${standby.api}/readyz`);
      expect(answer.status).toBe(503);
      expect(await answer.text()).toContain("standby");
    });
    await cluster.kill("b", { what: "agent" });
    await standby.ready();
    await insert("a", "merged by the standby");
    await arrives("b", "merged by the standby");
  } finally {
    await standby.stop();
  }
  await cluster.restart("b");
});

test("a server that is killed comes back, and the agents find it again", async () => {
  await insert("b", "before the crash");
  await cluster.kill("b", { what: "server" });
  await insert("a", "during the crash");
  await cluster.restart("b");
  await cluster.converged();
  expect(await has("a", "before the crash")).toBe(true);
  expect(await has("b", "during the crash")).toBe(true);
});

test("a region whose server crashes while a line is cut takes up the other lines", async () => {
  await cluster.addRegion("far");
  await cluster.init();
  await cluster.startAgent("far");
  await cluster.converged();
  cluster.cut("b", "far");
  await cluster.kill("b", { what: "server" });
  await cluster.restart("b");
  await insert("a", "while b is cut from far");
  await arrives("b", "while b is cut from far");
  cluster.heal();
  await cluster.converged();
});

test("a clock an hour behind: what has seen a write still outranks it", async () => {
  await insert("a", "clock", "first");
  await arrives("b", "clock");
  await cluster.skewClock("b", -3_600_000);
  await insert("b", "stamped an hour ago");
  const [row] = await cluster.region("b").sql`
    SELECT (cg_version >> 10) / 1e6 < extract(epoch FROM now()) - 3500 AS old FROM notes WHERE id = 'stamped an hour ago'`;
  expect(row).toEqual({ old: true });
  await cluster.region("b").sql`UPDATE notes SET body = 'second' WHERE id = 'clock'`;
  await cluster.converged();
  expect(await cluster.region("a").sql`SELECT body FROM notes WHERE id = 'clock'`).toEqual([
    { body: "second" },
  ]);
  await cluster.skewClock("b", 0);
});

test(
  "a region that joins gets what was there, and what is written from now on",
  { timeout: 120_000 },
  async () => {
    await cluster.addRegion("late");
    await cluster.init();
    await cluster.startAgent("late");
    await arrives("late", "clock");
    await insert("late", "from the newcomer");
    await insert("a", "for the newcomer");
    await cluster.converged();
    expect(await has("b", "from the newcomer")).toBe(true);
    expect(await has("late", "for the newcomer")).toBe(true);
  },
);
