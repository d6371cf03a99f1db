import { pino } from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { systemClock } from "../../src/clock.ts";
import { logIfDue, logRestartPoints } from "../../src/replication/restart-points.ts";
import type { AgentContext } from "../../src/replication/wiring.ts";
import { createDatabase, eventually, uniqueName } from "../support/database.ts";
import { Regions, testLimits } from "./agents.ts";

let regions: Regions;

beforeAll(async () => {
  regions = await Regions.create({ schema: "CREATE TABLE notes (id text PRIMARY KEY, body text)" });
});
afterAll(() => regions[Symbol.asyncDispose]());

/** As many bytes and more. The database is the only one that writes them for sure; others only add to it. */
const writeWal = (bytes: number): Promise<unknown> =>
  regions.db("a").query("SELECT pg_logical_emit_message(false, 'test', repeat('x', $1))", [bytes]);

test("a restart point is due where so much was written since the last, and a peer has not confirmed as much", async () => {
  const client = await regions.db("a").connect();
  await writeWal(2_000);
  const first = await logIfDue(client, 0n, 1_000n);
  expect(first.isNew).toBe(true);
  // The slot of b, which nobody reads, is not so far behind.
  expect((await logIfDue(client, 0n, 2n ** 50n)).isNew).toBe(false);
  const far = 2n ** 40n;
  expect((await logIfDue(client, first.position - 1_000n + far, 1_000n)).isNew).toBe(false);
  await writeWal(2_000);
  const second = await logIfDue(client, first.position, 1_000n);
  expect(second.isNew).toBe(true);
  expect(second.position).toBeGreaterThan(first.position + 1_000n);
});

test("where no peer has a slot none is due", async () => {
  await using alone = await createDatabase();
  expect((await logIfDue(await alone.connect(), 0n, 1n)).isNew).toBe(false);
});

test("a region's agent has them logged while a peer is away", async () => {
  await using agent = regions.agent("a", { restartPointBytes: 100_000 });
  const points = (): number => agent.logs.filter(({ msg }) => msg === "a restart point is logged").length;
  await eventually(() => expect(agent.status.role).toBe("active"));
  await writeWal(300_000);
  await eventually(() => expect(points()).toBeGreaterThan(0));
  const before = points();
  await writeWal(300_000);
  await eventually(() => expect(points()).toBeGreaterThan(before));
});

test("a role that may not do it does without, and says so once", async () => {
  const role = uniqueName("role");
  const client = await regions.db("a").connect();
  const said: string[] = [];
  const logger = pino({}, { write: (line: string) => void said.push(JSON.parse(line).msg) });
  const context = { clock: systemClock(), limits: { ...testLimits, restartPointBytes: 1 }, logger };
  await client.query(`CREATE ROLE ${role}; SET ROLE ${role}`);
  await logRestartPoints(client, context as AgentContext, new AbortController().signal);
  await client.query(`RESET ROLE; DROP ROLE ${role}`);
  expect(said).toEqual([expect.stringContaining("pg_log_standby_snapshot")]);
});
