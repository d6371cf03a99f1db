import { Socket } from "node:net";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { Decoder, StreamedTooSoon } from "../../src/replication/decode.ts";
import { ours, tombstoneName } from "../../src/postgres/install/names.ts";
import { directLine, type Line } from "../../src/postgres/line.ts";
import { eventually } from "../support/database.ts";
import { type LocalAgent, positions, Regions } from "./agents.ts";
import { blockedSql } from "./merge-helpers.ts";
import { streamCommit, streamStart, streamStop } from "./pgoutput.ts";

/**
 * Transactions that a source streams before it has decoded their commit, as it does where a link is far behind.
 * 64 kB is the least that the server takes.
 */
// However much other tests write to the same server, it is not read by SQL.
const limits = {
  backlogBytes: 2 ** 40,
  streamingBytes: 1_000,
  streamingKb: 64,
  maxBatchRows: 200,
  maxBatchBytes: 50_000,
};

let regions: Regions;

beforeAll(async () => {
  regions = await Regions.create({ schema: "CREATE TABLE notes (id text PRIMARY KEY, body text)" });
  const { b } = await regions.agents();
  await regions.db("a").query("INSERT INTO notes VALUES ('first', '')");
  await regions.equal();
  await b!.stop();
});
afterAll(() => regions[Symbol.asyncDispose]());

const many = (prefix: string, count = 3_000): string =>
  `INSERT INTO notes SELECT '${prefix}' || i, repeat('x', 50) FROM generate_series(1, ${count}) AS i`;

const rowsIn = async (region: string, prefix: string): Promise<number> => {
  const [row] = await regions
    .db(region)
    .query<{ n: number }>("SELECT count(*)::int AS n FROM notes WHERE id LIKE $1", [`${prefix}%`]);
  return row?.n ?? -1;
};

/** How many transactions the source has streamed to B so far. */
const streamed = async (): Promise<number> => {
  const [row] = await regions
    .db("a")
    .query<{ n: number }>(
      "SELECT stream_txns::int AS n FROM pg_stat_replication_slots WHERE slot_name = $1",
      [regions.slot("a", "b")],
    );
  return row?.n ?? -1;
};

const gaveUp = ({ logs }: LocalAgent): number =>
  logs.filter(({ msg }) => msg === "large transactions are waited for").length;

/** It confirms what it has merged before it ends. */
const stopped = async (agent: LocalAgent): Promise<void> => {
  await agent.stop();
  const { merged, confirmed } = await positions(regions, "a", "b");
  expect(confirmed).toBe(merged);
};

test("large transactions are streamed, whatever commits between their blocks", async () => {
  const before = await streamed();
  const [one, two] = [await regions.db("a").connect(), await regions.db("a").connect()];
  await one.query("BEGIN");
  await two.query("BEGIN");
  for (const part of ["p", "q", "r"]) {
    await one.query(many(`one ${part}`));
    await regions.db("a").query("INSERT INTO notes VALUES ($1, 'small')", [`between ${part}`]);
    await two.query(many(`two ${part}`));
    await two.query("SAVEPOINT kept");
    await two.query("UPDATE notes SET body = 'changed' WHERE id LIKE $1", [`two ${part}1%`]);
    await two.query("RELEASE SAVEPOINT kept");
    await regions.db("a").query("UPDATE notes SET body = body || '!' WHERE id = 'first'");
  }
  await two.query("DELETE FROM notes WHERE id LIKE 'two p2%'");
  await two.query("COMMIT");
  await regions.db("a").query("INSERT INTO notes VALUES ('between commits', 'small')");
  await one.query("COMMIT");
  await using agent = await regions.agent("b", limits).streaming();
  await regions.equal(30_000);
  expect(await rowsIn("b", "one ")).toBe(9_000);
  expect(agent.errors()).toEqual([]);
  expect(gaveUp(agent)).toBe(0);
  await regions.db("a").query("INSERT INTO notes VALUES ('after', '')");
  await regions.equal();
  await stopped(agent);
  // The walsender counts when it ends.
  await eventually(async () => expect(await streamed()).toBeGreaterThanOrEqual(before + 2));
});

test("nothing of a streamed transaction can be seen before all of it", async () => {
  const lock = await regions.db("b").connect();
  await lock.query("BEGIN");
  await lock.query("INSERT INTO notes VALUES ('whole q2999', 'here')");
  const writer = await regions.db("a").connect();
  await writer.query("BEGIN");
  await writer.query(many("whole p"));
  await regions.db("a").query("INSERT INTO notes VALUES ('between blocks', '')");
  await writer.query(many("whole q"));
  await writer.query("COMMIT");
  await using agent = await regions.agent("b", limits).streaming();
  await eventually(async () => {
    expect(await regions.db("b").query(blockedSql, ["coregent link a > b"])).toHaveLength(1);
  });
  expect(await rowsIn("b", "whole")).toBe(0);
  // A lock that is held for long: then the transaction is waited for, so that it can be tried again by itself.
  const before = await streamed();
  await eventually(() => expect(agent.link("a").errors.get("retry")).toBe(1));
  await eventually(() => expect(agent.link("a").state).toBe("streaming"));
  await lock.query("ROLLBACK");
  await regions.equal(30_000);
  await agent.stop();
  expect(await streamed()).toBeLessThanOrEqual(before + 1);
});

test("what fails before a link streams does not make it wait for large transactions", async () => {
  await regions.db("a").query(many("late"));
  const before = await streamed();
  const lock = await regions.db("b").connect();
  await lock.query("BEGIN; LOCK coregent.progress");
  await using agent = regions.agent("b", limits);
  // No session of ours waits for a lock for long.
  await eventually(() => expect(agent.link("a").errors.get("retry")).toBeGreaterThan(0));
  await lock.query("ROLLBACK");
  await regions.equal(30_000);
  await stopped(agent);
  await eventually(async () => expect(await streamed()).toBeGreaterThan(before));
});

test("streamed transactions that overlap again and again are not merged as one", () => {
  const sink = { begin: vi.fn(), commit: vi.fn(), buffer: vi.fn(), appended: vi.fn(), skip: vi.fn() };
  const decoder = new Decoder(sink, {
    tables: [],
    domains: new Map(),
    format: "binary",
    sourceRegion: null,
    streamed: () => undefined,
  });
  const block = (xid: number): void => {
    decoder.decode(streamStart(xid));
    decoder.decode(streamStop());
  };
  block(0);
  for (let xid = 1; xid < 16; xid++) {
    block(xid);
    decoder.decode(streamCommit(xid - 1, BigInt(xid)));
  }
  expect(sink.begin).toHaveBeenCalledTimes(1);
  expect(sink.commit).not.toHaveBeenCalled();
  expect(() => block(16)).toThrow(StreamedTooSoon);
});

test("a part that was rolled back is not merged", async () => {
  const session = await regions.db("a").connect();
  await session.query("BEGIN");
  await session.query(many("kept"));
  await session.query("SAVEPOINT undone");
  await session.query(many("undone"));
  await session.query("ROLLBACK TO SAVEPOINT undone");
  await session.query(many("kept too"));
  await session.query("COMMIT");
  await using agent = await regions.agent("b", limits).streaming();
  await regions.equal(30_000);
  expect(await rowsIn("b", "kept")).toBe(6_000);
  expect(gaveUp(agent)).toBe(1);
  expect(agent.link("a").resyncs).toBe(0);
  await stopped(agent);
});

test.each([
  { prefix: "gone", otherEntombs: false, name: "deletes of many rows are streamed" },
  {
    prefix: "vain",
    otherEntombs: true,
    name: "what deletes wrote in vain, as another entombed a key, is not merged",
  },
])("$name", async ({ prefix, otherEntombs }) => {
  await regions.db("a").query(many(prefix));
  const before = await streamed();
  const [deleting, merging] = [await regions.db("a").connect(), await regions.db("a").connect()];
  await merging.query("BEGIN; SET LOCAL session_replication_role = replica");
  if (otherEntombs) {
    const relation = ours(tombstoneName("public", "notes"));
    await merging.query(`INSERT INTO ${relation} (id, cg_version) VALUES ('${prefix}3000', 5)`);
  }
  await deleting.query("SET application_name = 'deleting'");
  const deleted = deleting.query(`DELETE FROM notes WHERE id LIKE '${prefix}%'`);
  if (otherEntombs) {
    await eventually(async () => {
      expect(await regions.db("a").query(blockedSql, ["deleting"])).toHaveLength(1);
    });
  }
  await merging.query("COMMIT");
  await deleted;
  await regions.db("a").query("INSERT INTO notes VALUES ($1, '')", [`after ${prefix}`]);
  await using agent = await regions.agent("b", limits).streaming();
  await regions.equal(30_000);
  expect(await rowsIn("b", prefix)).toBe(0);
  expect(gaveUp(agent)).toBe(otherEntombs ? 1 : 0);
  await stopped(agent);
  await eventually(async () => expect(await streamed()).toBeGreaterThan(before));
});

test("a transaction that is open keeps nobody waiting, and is merged when it has committed", async () => {
  const [committing, failing] = [await regions.db("a").connect(), await regions.db("a").connect()];
  await committing.query("BEGIN");
  await committing.query(many("open"));
  await failing.query("BEGIN");
  await failing.query(many("vain"));
  await regions.flush("a");
  await using agent = await regions.agent("b", limits).streaming();
  await eventually(() => expect(gaveUp(agent)).toBe(1));
  await regions.db("a").query("INSERT INTO notes VALUES ('meanwhile', '')");
  await eventually(async () => expect(await rowsIn("b", "meanwhile")).toBe(1));
  expect(await rowsIn("b", "open")).toBe(0);
  // Local writers do not wait for it either.
  await regions.db("b").query("INSERT INTO notes VALUES ('open1', 'here first')");
  await failing.query("ROLLBACK");
  await committing.query("COMMIT");
  await eventually(async () => expect(await rowsIn("b", "open")).toBe(3_000));
  await regions.equal(30_000);
  expect(await rowsIn("b", "vain")).toBe(0);
});

test("a transaction that is open and brings nothing of ours keeps nobody waiting either", async () => {
  await regions.db("a").query("CREATE TABLE staging (body text)");
  await regions.db("a").query(many("before"));
  await using agent = await regions.agent("b", limits).streaming();
  await regions.equal();
  const loading = await regions.db("a").connect();
  await loading.query("BEGIN");
  await loading.query("INSERT INTO staging SELECT repeat('x', 50) FROM generate_series(1, 3000)");
  await regions.db("a").query("INSERT INTO notes VALUES ('beside it', '')");
  await eventually(async () => expect(await rowsIn("b", "beside it")).toBe(1));
  expect(gaveUp(agent)).toBe(1);
  await loading.query("ROLLBACK");
  await stopped(agent);
});

test("a link that waits for a word about a transaction can be stopped", async () => {
  const sockets: Socket[] = [];
  const socket = (): Socket => {
    const made = new Socket();
    sockets.push(made);
    return made;
  };
  await regions.db("a").query(many("before the silence"));
  const lineTo = (region: string): Line => (region === "a" ? { socket } : directLine);
  await using agent = await regions.agent("b", { ...limits, drainMs: 100 }, { lineTo }).streaming();
  await regions.equal();
  const read = (): number => sockets.reduce((sum, { bytesRead }) => sum + bytesRead, 0);
  const before = read();
  // The session for questions, while the stream and the pulse go on.
  sockets[0]?.pause();
  await regions.db("a").query(many("in silence"));
  await eventually(() => expect(read()).toBeGreaterThan(before + 200_000));
  await agent.stop();
  expect(await rowsIn("b", "in silence")).toBe(0);
});
