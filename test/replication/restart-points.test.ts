import { pino } from "pino";
import type { Client } from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import { parseLsn } from "../../src/replication/lsn.ts";
import { keptForAbsent, RestartPoints, spacingOf } from "../../src/replication/restart-points.ts";
import type { SlotStatus } from "../../src/replication/status.ts";
import type { AgentContext } from "../../src/replication/wiring.ts";
import { eventually, uniqueName } from "../support/database.ts";
import { HandClock } from "../support/hand-clock.ts";
import { type LocalAgent, Regions, testLimits } from "./agents.ts";

let regions: Regions;

beforeAll(async () => {
  regions = await Regions.create({ schema: "CREATE TABLE notes (id text PRIMARY KEY, body text)" });
});
afterAll(() => regions[Symbol.asyncDispose]());

/** Other databases of the server may write more meanwhile. */
const writeWal = (bytes: number): Promise<unknown> =>
  regions.db("a").query("SELECT pg_logical_emit_message(false, 'test', repeat('x', $1))", [bytes]);

const slot = (retainedBytes: number, active = false, walStatus = "reserved"): SlotStatus => ({
  name: "s",
  peer: "b",
  active,
  walStatus,
  retainedBytes,
});

test("the peer counts that is farthest behind of those which read nothing and still can", () => {
  expect(keptForAbsent([])).toBe(null);
  expect(keptForAbsent([slot(5, true), slot(7, false, "lost")])).toBe(null);
  expect(keptForAbsent([slot(9, true), slot(3), slot(0), slot(4)])).toBe(4n);
  expect(keptForAbsent([slot(0)])).toBe(0n);
});

test("the farther behind a peer is, the farther apart the points", () => {
  expect(spacingOf(0n, 100n)).toBe(100n);
  expect(spacingOf(25_600n, 100n)).toBe(100n);
  expect(spacingOf(51_200n, 100n)).toBe(200n);
});

interface Looking {
  readonly said: string[];
  readonly look: () => Promise<void>;
}

const looking = (client: Client, clock: HandClock, restartPointBytes: number): Looking => {
  const said: string[] = [];
  const logger = pino({ level: "debug" }, { write: (line: string) => void said.push(JSON.parse(line).msg) });
  const context = { clock: clock.clock, limits: { ...testLimits, restartPointBytes }, logger };
  const points = new RestartPoints(context as AgentContext);
  const signal = AbortSignal.timeout(30_000);
  return { said, look: () => points.logFor(0, { client, kept: 0n, signal }) };
};

const logged = "a restart point is logged";

const positionOf = async (client: Client): Promise<bigint> => {
  const { rows } = await client.query<{ lsn: string }>("SELECT pg_current_wal_insert_lsn()::text AS lsn");
  return parseLsn(rows[0]!.lsn);
};

test("a point is logged where so much was written since the last, at first since ever", async () => {
  const client = await regions.db("a").connect();
  const { said, look } = looking(client, new HandClock(), 100_000);
  await look();
  expect(said).toEqual([logged]);
  await writeWal(100_000);
  await look();
  expect(said).toEqual([logged, logged]);
  // For a second one, as much would have to be written as ever was.
  const once = looking(client, new HandClock(), Number(await positionOf(client)));
  await once.look();
  await once.look();
  expect(once.said).toEqual([logged]);
  const never = looking(client, new HandClock(), 2 ** 50);
  await never.look();
  expect(never.said).toEqual([]);
});

test("a role that may not do it is heard once a minute, and does it as soon as it may", async () => {
  const role = uniqueName("role");
  const client = await regions.db("a").connect();
  const clock = new HandClock();
  const { said, look } = looking(client, clock, 1);
  const refused = expect.stringContaining("no restart points are logged");
  await client.query(`CREATE ROLE ${role}; SET ROLE ${role}`);
  try {
    await look();
    await look();
    expect(said).toEqual([refused]);
    await clock.goOn(60_000);
    await look();
    expect(said).toEqual([refused, refused]);
    await regions.db("a").query(`GRANT EXECUTE ON FUNCTION pg_log_standby_snapshot() TO ${role}`);
    await clock.goOn(60_000);
    await look();
    expect(said).toEqual([refused, refused, logged]);
  } finally {
    await client.query(`RESET ROLE; DROP OWNED BY ${role}; DROP ROLE ${role}`);
  }
});

const pointsOf = (agent: LocalAgent): number => agent.logs.filter(({ msg }) => msg === logged).length;

/** Until it has looked at its slots once more. */
const observed = async (agent: LocalAgent): Promise<void> => {
  const { slots } = agent.status;
  await eventually(() => expect(agent.status.slots).not.toBe(slots));
};

test("a region's agent has points logged while a peer is away, and only then", async () => {
  const a = regions.agent("a", { restartPointBytes: 100_000 });
  await eventually(() => expect(pointsOf(a)).toBeGreaterThan(0));
  const first = pointsOf(a);
  await writeWal(300_000);
  await eventually(() => expect(pointsOf(a)).toBeGreaterThan(first));

  const b = await regions.agent("b").streaming();
  await eventually(() => expect(a.status.slots.map(({ active }) => active)).toEqual([true]));
  await observed(a);
  const last = pointsOf(a);
  await writeWal(300_000);
  await observed(a);
  await observed(a);
  expect(pointsOf(a)).toBe(last);
  await b.stop();
  await a.stop();
});

test("a slot of a region that is no longer configured asks for none", async () => {
  const name = `${regions.slot("a", "b").slice(0, -1)}9`;
  await regions.db("a").query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", [name]);
  const { a, b } = await regions.agents({ restartPointBytes: 100_000 });
  try {
    await eventually(() => expect(a!.status.slots.map(({ active }) => active)).toEqual([true, false]));
    await observed(a!);
    const before = pointsOf(a!);
    await writeWal(300_000);
    await observed(a!);
    await observed(a!);
    expect(pointsOf(a!)).toBe(before);
  } finally {
    await regions.db("a").query("SELECT pg_drop_replication_slot($1)", [name]);
    await a!.stop();
    await b!.stop();
  }
});
