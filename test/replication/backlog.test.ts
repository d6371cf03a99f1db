import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { eventually } from "../support/database.ts";
import { forReadingAgain, worthGoingOn } from "../../src/replication/backlog.ts";
import { slotCopyName, slotName } from "../../src/postgres/install/names.ts";
import { SpareMemory } from "../../src/replication/spare-memory.ts";
import { parseLsn } from "../../src/replication/lsn.ts";
import { type LocalAgent, positions, Regions } from "./agents.ts";
import { blockedSql } from "./merge-helpers.ts";

let regions: Regions;
// Pieces within the transaction that is huge are empty.
const limits = { backlogBytes: 200_000, backlogPieceChanges: 300, backlogPieceBytes: 30_000 };

beforeAll(async () => {
  // What is released is overwritten: whoever still read it would merge nonsense.
  const give = Reflect.get<SpareMemory, "give">(SpareMemory.prototype, "give");
  vi.spyOn(SpareMemory.prototype, "give").mockImplementation(function (this: SpareMemory, memory) {
    memory.fill(0xff);
    give.call(this, memory);
  });
  regions = await Regions.create({ schema: "CREATE TABLE notes (id text PRIMARY KEY, body text)" });
});
afterAll(() => regions[Symbol.asyncDispose]());

/** Small transactions, one that is huge, one that was undone, deletes. Gives the position behind them. */
const writeMuch = async (prefix: string): Promise<bigint> => {
  const session = await regions.db("a").connect();
  await session.query(`DO $$ BEGIN
    FOR i IN 1..400 LOOP INSERT INTO notes VALUES ('${prefix}' || i, repeat('x', i)); COMMIT; END LOOP;
  END $$`);
  await session.query("BEGIN; UPDATE notes SET body = 'never'; ROLLBACK");
  await session.query(
    "INSERT INTO notes SELECT $1 || 'bulk' || i, repeat('y', 50) FROM generate_series(1, 5000) i",
    [prefix],
  );
  await session.query("UPDATE notes SET body = body || '!' WHERE id LIKE $1", [`${prefix}1%`]);
  await session.query("DELETE FROM notes WHERE id LIKE $1", [`${prefix}bulk1%`]);
  return parseLsn(await regions.flush("a"));
};

const leftovers = async (): Promise<number> => {
  const [row] = await regions
    .db("a")
    .query<{ n: number }>("SELECT count(*)::int AS n FROM pg_replication_slots WHERE slot_name = $1", [
      slotCopyName(regions.slot("a", "b")),
    ]);
  return row?.n ?? -1;
};

test("what a peer wrote meanwhile is read by SQL where it is much, then the stream goes on where that ended", async () => {
  const { b } = await regions.agents();
  await regions.db("a").query("INSERT INTO notes VALUES ('first', '')");
  await regions.equal();
  await b!.stop();
  const end = await writeMuch("away");
  await using again = regions.agent("b", limits);
  await again.streaming();
  await regions.equal();
  expect(again.logs.filter(({ msg }) => msg === "catching up")).toHaveLength(1);
  // It may be merged before it is known that nothing follows. Other tests write to the same server meanwhile.
  const readEnd = await eventually(() => {
    const read = again.logs.find(({ msg }) => msg?.startsWith("the backlog is read"));
    return parseLsn(String(Reflect.get(read ?? {}, "end")));
  });
  expect(readEnd).toBeGreaterThan(end - BigInt(limits.backlogBytes / 16));
  expect(again.errors()).toEqual([]);
  expect(again.link("a").resyncs).toBe(0);
  await regions.db("a").query("INSERT INTO notes VALUES ('streamed', '')");
  await regions.equal();
  // All of it is confirmed, by the stream; the copy of the slot is gone.
  const { merged } = await positions(regions, "a", "b");
  await eventually(async () => {
    const { confirmed } = await positions(regions, "a", "b");
    // Both regions are on one server: what is merged moves the WAL that is to be merged.
    expect(parseLsn(confirmed)).toBeGreaterThanOrEqual(parseLsn(merged));
    expect(await leftovers()).toBe(0);
  });
});

test("a copy of the slot that a former session of ours still holds is taken from it", async () => {
  const former = await regions.db("a").connect();
  const name = regions.slot("a", "b");
  await former.query("SELECT pg_copy_logical_replication_slot($1, $2, true)", [name, slotCopyName(name)]);
  await writeMuch("former");
  await using agent = regions.agent("b", limits);
  await agent.streaming();
  await regions.equal();
  expect(agent.logs.filter(({ msg }) => msg === "catching up")).toHaveLength(1);
});

test("where transactions are huge, what a peer wrote meanwhile is streamed however much it is", async () => {
  await writeMuch("huge");
  await using agent = regions.agent("b", { ...limits, backlogTransactionBytes: 1 });
  await agent.streaming();
  await regions.equal();
  expect(agent.logs.filter(({ msg }) => msg === "catching up")).toEqual([]);
});

const small = { ...limits, maxBatchRows: 50, maxBatchBytes: 20_000 };

test("reading by SQL ends when little is left, or the peer writes nearly as fast as it is read", () => {
  const piece = (left: bigint, leftBefore: bigint, read: bigint, past = true): boolean =>
    worthGoingOn({ left, leftBefore, read, past }, 64n);
  expect(piece(100n, 110n, 10n)).toBe(true);
  // However fast the peer writes, as long as what it had written before is not read; not for ever.
  expect(piece(120n, 110n, 10n, false)).toBe(true);
  expect(piece(120n, 110n, 10n)).toBe(false);
  expect(piece(40n, 50n, 10n)).toBe(true);
  expect(piece(40n, 45n, 10n)).toBe(true);
  expect(piece(40n, 44n, 10n)).toBe(false);
  expect(piece(3n, 13n, 10n)).toBe(false);
  // Within a huge transaction pieces are empty.
  expect(piece(100n, 100n, 0n)).toBe(true);
});

test("a piece before which the peer reads much again is larger, within bounds", () => {
  const size = { changes: 100, bytes: 1_000 };
  const larger = (again: number, messageBytes = 50): number =>
    forReadingAgain(size, { again, messageBytes }).changes;
  expect(larger(0)).toBe(100);
  expect(larger(2_000)).toBe(100);
  expect(larger(6_000)).toBe(300);
  expect(larger(6_000, 0)).toBe(300);
  expect(larger(1_000_000)).toBe(800);
  // 128 MiB are kept of it at most, unless the smallest is more.
  expect(larger(1_000_000, 512 * 1024)).toBe(256);
  expect(larger(1_000_000, 8 * 1024 * 1024)).toBe(100);
  expect(forReadingAgain(size, { again: 1_000_000, messageBytes: 50 }).bytes).toBe(1_000_000);
  expect(forReadingAgain(size, { again: 10, messageBytes: 50 }).bytes).toBe(1_000);
});

test("the copies of two slots never have one name, nor one that the server would cut", () => {
  const longest = [1001, 1002].map((target) => slotCopyName(slotName("c".repeat(40), 1003, target)));
  expect(new Set(longest).size).toBe(2);
  for (const name of longest) expect(name.length).toBeLessThanOrEqual(63);
});

interface Stuck extends AsyncDisposable {
  readonly agent: LocalAgent;
  readonly release: () => Promise<unknown>;
}

/** An agent in the middle of a backlog: it has merged some of it, and holds as much as it may. */
const stuck = async (key: string): Promise<Stuck> => {
  await using stack = new AsyncDisposableStack();
  const lock = await regions.db("b").connect();
  stack.defer(async () => void (await lock.query("ROLLBACK")));
  // The key of a transaction behind the others.
  await lock.query("BEGIN");
  await lock.query("INSERT INTO notes VALUES ($1, 'here')", [key]);
  await regions.db("a").query("INSERT INTO notes VALUES ($1, 'there')", [key]);
  await regions
    .db("a")
    .query("INSERT INTO notes SELECT $1 || i, repeat('z', 200) FROM generate_series(1, 2000) i", [key]);
  const agent = stack.use(regions.agent("b", { ...small, drainMs: 500 }));
  await eventually(
    async () => {
      return (await regions.db("b").query(blockedSql, ["coregent link a > b"])).length > 0;
    },
    { what: "being stuck" },
  );
  const ending = stack.move();
  return {
    agent,
    release: () => lock.query("ROLLBACK"),
    [Symbol.asyncDispose]: () => ending.disposeAsync(),
  };
};

test.each(["terminate", "cancel"])(
  "a session that breaks while its pieces are merged (%s): nothing is lost, and the slot stays behind",
  async (how) => {
    await writeMuch(how);
    await using scene = await stuck(`stuck ${how}`);
    const ended = await regions.db("a").query(
      `SELECT pg_${how}_backend(pid) FROM pg_stat_activity
          WHERE datname = current_database() AND application_name = 'coregent backlog a > b'`,
    );
    expect(ended).toHaveLength(1);
    const { merged, confirmed } = await positions(regions, "a", "b");
    expect(parseLsn(confirmed)).toBeLessThanOrEqual(parseLsn(merged));
    await scene.release();
    await regions.equal(30_000);
    expect(scene.agent.link("a").resyncs).toBe(0);
    await eventually(async () => expect(await leftovers()).toBe(0));
  },
);

test("an agent that is stopped while it holds as much as it may ends, and the next goes on", async () => {
  await writeMuch("stopped");
  await using scene = await stuck("second stuck");
  await scene.agent.stop();
  await scene.release();
  await using next = regions.agent("b", small);
  await next.streaming();
  await regions.equal(30_000);
  expect(next.link("a").resyncs).toBe(0);
});
