import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { parseLsn } from "../../src/replication/lsn.ts";
import { eventually } from "../support/eventually.ts";
import { type LocalAgent, positions, Regions } from "./agents.ts";
import { atCommit } from "../support/at-commit.ts";

/** Two regions on one server, each with its agent in this process; every test leaves them equal. */

let regions: Regions;
let a: LocalAgent;
let b: LocalAgent;
const limits = { silenceTimeoutMs: 1_500, connectTimeoutMs: 1_500 };

beforeAll(async () => {
  regions = await Regions.create({
    schema: "CREATE TABLE notes (id text PRIMARY KEY, body text NOT NULL)",
  });
  ({ a, b } = (await regions.agents(limits)) as { a: LocalAgent; b: LocalAgent });
});
afterAll(() => regions?.[Symbol.asyncDispose]());
// A test that fails leaves no fault to the next one.
afterEach(() => {
  for (const line of regions.between("a", "b")) {
    line.heal();
    line.setConditions({ latencyMs: 0, loss: 0, bytesPerSecond: null });
  }
});

const insert = (region: string, id: string): Promise<unknown> =>
  regions.db(region).query("INSERT INTO notes VALUES ($1, 'x')", [id]);
const arrives = (region: string, id: string, timeoutMs = 30_000): Promise<unknown> =>
  eventually(
    async () => (await regions.db(region).query("SELECT FROM notes WHERE id = $1", [id])).length > 0,
    { timeoutMs, what: `${id} in region ${region}` },
  );

test("what is merged is confirmed, never more, and an idle peer's position moves on", async () => {
  await insert("a", "confirmed");
  await arrives("b", "confirmed");
  const { merged } = await positions(regions, "a", "b");
  await eventually(async () => {
    const now = await positions(regions, "a", "b");
    expect(parseLsn(now.confirmed)).toBeGreaterThanOrEqual(parseLsn(merged));
    expect(parseLsn(now.confirmed)).toBeLessThanOrEqual(parseLsn(now.merged));
  });
  // WAL that is not for the link: nothing but keepalives tells of it.
  const [row] = await regions
    .db("a")
    .query<{ lsn: string }>(
      "CREATE TABLE elsewhere AS SELECT generate_series(1, 1000) AS n; DROP TABLE elsewhere",
    )
    .then(() => regions.db("a").query<{ lsn: string }>("SELECT pg_current_wal_lsn()::text AS lsn"));
  await eventually(async () => {
    const { confirmed } = await positions(regions, "a", "b");
    expect(parseLsn(confirmed)).toBeGreaterThanOrEqual(parseLsn(row?.lsn ?? ""));
  });
});

test("of what is not here yet, the commit time of the oldest is known, also while its own commit is under way", async () => {
  const wait = "PERFORM pg_advisory_xact_lock_shared(7)";
  await regions.db("b").query(atCommit("notes", "NEW.id = 'slow'", wait));
  const holder = await regions.db("b").connect();
  await holder.query("SELECT pg_advisory_lock(7)");
  const link = b.link("a");
  const began = Date.now();
  await insert("a", "slow");
  const ended = Date.now();
  const isOfSlow = async (): Promise<void> => {
    await eventually(() => expect(link.pendingCommitMs).toBeGreaterThanOrEqual(began));
    expect(link.pendingCommitMs).toBeLessThanOrEqual(ended);
  };
  await isOfSlow();
  await eventually(() => Date.now() > ended);
  const received = link.receivedLsn;
  await insert("a", "behind it");
  await eventually(() => link.receivedLsn > received);
  await isOfSlow();
  await holder.query("SELECT pg_advisory_unlock(7)");
  await arrives("b", "behind it");
  await eventually(() => expect(link.pendingCommitMs).toBe(0));
  await regions.equal();
  await regions.db("b").query("DROP TRIGGER at_commit ON notes");
});

test("connections that break all the time lose nothing", async () => {
  for (let round = 0; round < 8; round += 1) {
    await insert("a", `first ${round}`);
    if (round % 2 === 0) await arrives("b", `first ${round}`);
    regions.line("b", "a").resetConnections();
    await insert("a", `second ${round}`);
  }
  await regions.equal();
  expect(b.link("a").resyncs).toBe(0);
});

test("states that are copied once more change nothing", async () => {
  await insert("a", "copied again");
  await arrives("b", "copied again");
  await regions.equal();
  const image = (): Promise<unknown[]> =>
    regions.db("b").query("SELECT *, xmin::text FROM notes ORDER BY id");
  const before = await image();
  await b.stop();
  await regions.db("b").query("DELETE FROM coregent.progress");
  b = await regions.agent("b", limits).streaming();
  await regions.equal();
  expect(b.logs.some(({ reason }) => reason === "first contact")).toBe(true);
  expect(await image()).toEqual(before);
  expect(await regions.db("b").query("SELECT FROM coregent.conflict")).toEqual([]);
});

test("a dropped slot is noticed, and what went by meanwhile is copied (FAULTS 8)", async () => {
  await insert("a", "deleted while there was no slot");
  await arrives("b", "deleted while there was no slot");
  const slot = regions.slot("a", "b");
  const before = b.link("a").resyncs;
  regions.line("b", "a").cut({ mode: "reset" });
  await eventually(() => regions.db("a").query("SELECT pg_drop_replication_slot($1)", [slot]));
  await regions.db("a").query("DELETE FROM notes WHERE id = 'deleted while there was no slot'");
  await insert("a", "inserted while there was no slot");
  regions.line("b", "a").heal();
  await arrives("b", "inserted while there was no slot");
  await regions.equal();
  await b.streaming();
  expect(b.link("a").resyncs).toBe(before + 1);
  expect(b.errors().join()).toContain("will be copied");
  // No loop: streaming goes on.
  await insert("a", "after the resync");
  await arrives("b", "after the resync");
  expect(b.link("a").resyncs).toBe(before + 1);
});

test("a line that is silent without being closed is given up and taken up anew (FAULTS 23)", async () => {
  const walsender = async (): Promise<number> => {
    const [row] = await regions
      .db("a")
      .query<{ pid: number }>("SELECT active_pid AS pid FROM pg_replication_slots WHERE slot_name = $1", [
        regions.slot("a", "b"),
      ]);
    return row?.pid ?? 0;
  };
  const stale = await walsender();
  regions.line("b", "a").cut({ mode: "blackhole" });
  await insert("a", "behind the cut");
  await eventually(() => b.link("a").state !== "streaming", { timeoutMs: 30_000, what: "noticing" });
  // The source has heard of nothing: its walsender still holds the slot, and would until it misses its reader.
  expect(await walsender()).toBe(stale);
  await insert("b", "the other direction");
  await arrives("a", "the other direction");
  await regions.reroute("b", "a");
  await arrives("b", "behind the cut");
  expect(await walsender()).not.toBe(stale);
  await regions.equal();
});

test("a half-open connection in the middle of a copy is noticed too", async () => {
  await regions
    .db("a")
    .query("INSERT INTO notes SELECT 'bulk' || i, repeat('x', 500) FROM generate_series(1, 20000) i");
  await regions.equal(30_000);
  regions.line("b", "a").setConditions({ bytesPerSecond: 2_000_000 });
  await regions
    .db("b")
    .query(
      "INSERT INTO coregent.table_sync (origin, table_name, kind, reason) VALUES (1, 'public.notes', 'full', 'test')",
    );
  await eventually(() => (b.link("a").resync?.rowsDone ?? 0) > 0, { what: "copying" });
  regions.line("b", "a").cut({ mode: "blackhole" });
  await eventually(() => b.link("a").state !== "resyncing", { timeoutMs: 90_000, what: "noticing" });
  regions.line("b", "a").setConditions({ bytesPerSecond: null });
  regions.line("b", "a").heal();
  await regions.equal(30_000);
}, 180_000);

test("one direction is cut: the other goes on, its own writes wait (FAULTS 20)", async () => {
  // Answers of a are lost, what b asks arrives.
  regions.line("b", "a").cut({ mode: "blackhole", direction: "toClient" });
  await insert("b", "from b, one-way");
  await arrives("a", "from b, one-way");
  await insert("a", "from a, one-way");
  expect(await regions.db("b").query("SELECT FROM notes WHERE id = 'from a, one-way'")).toEqual([]);
  regions.line("b", "a").heal();
  await arrives("b", "from a, one-way");
  await regions.equal();
});

test("a long, lossy line (FAULTS 22)", async () => {
  for (const line of regions.between("a", "b")) line.setConditions({ latencyMs: 150, loss: 0.01 });
  for (let i = 0; i < 100; i += 1) await insert(i % 2 === 0 ? "a" : "b", `far ${i}`);
  await regions.equal();
});

test("a second agent of the region waits, and takes over when the first has gone (FAULTS 53)", async () => {
  const standby = regions.agent("b", limits);
  await eventually(() => standby.status.role === "standby");
  expect(standby.status.links.size).toBe(0);
  await b.stop();
  const started = performance.now();
  await eventually(() => standby.status.role === "active");
  await standby.streaming();
  expect(performance.now() - started).toBeLessThan(5_000);
  await insert("a", "merged by the standby");
  await arrives("b", "merged by the standby");
  b = standby;
  expect(a.errors()).toEqual([]);
});
