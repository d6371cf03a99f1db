import { expect, test } from "vitest";
import { systemClock } from "../../src/clock.ts";
import { type Batch, keepaliveBatch } from "../../src/replication/batch.ts";
import { readProgress } from "../../src/replication/progress.ts";
import { eventually } from "../support/eventually.ts";
import { batchOf, MergeRegion } from "./merge-fixture.ts";
import { at, blockedSql, row } from "./merge-helpers.ts";
import { batchUntil, contextIn, LocalMerger } from "./merger-fixture.ts";
import { refusingAtCommit } from "../support/at-commit.ts";

const from = 5_000n;

/** A walsender reads from its slot's restart_lsn on, and its first keepalives name positions that we merged long ago. */
test("progress does not go back to where a source has begun to read", async () => {
  await using region = await MergeRegion.create({ schema: "" });
  await using session = await region.session();
  const local = new LocalMerger(contextIn(region, { limits: { idleProgressMs: 0 } }), { session, from });
  await local.merger.noteDurable(from);
  await local.merge(keepaliveBatch(4_999n, 0n));
  expect(await readProgress(session, 2)).toBeNull();
  await local.merge(keepaliveBatch(6_000n, 0n));
  expect((await readProgress(session, 2))?.lsn).toBe(6_000n);
  await local.merge(keepaliveBatch(4_000n, 0n));
  expect((await readProgress(session, 2))?.lsn).toBe(6_000n);
  await local.merge(keepaliveBatch(7_000n, 0n));
  expect((await readProgress(session, 2))?.lsn).toBe(7_000n);
});

/** A merger whose commits wait for as long as another session holds the progress. */
const held = async (lockTimeout: string) => {
  const region = await MergeRegion.create({ schema: "CREATE TABLE t (id text PRIMARY KEY, val text)" });
  const session = await region.session({ settings: { lock_timeout: lockTimeout } });
  const local = new LocalMerger(contextIn(region), { session });
  const batch = (endLsn: bigint, id: string): Batch =>
    batchUntil(
      endLsn,
      batchOf(region.table("t"), [{ state: row(at(Number(endLsn), 2)), fields: { id, val: id } }]),
    );
  await local.merge(batch(1n, "first"));
  const holder = await region.db.connect();
  await holder.query("BEGIN; SELECT FROM coregent.progress FOR UPDATE");
  const ids = async () => (await region.db.query("SELECT id FROM t ORDER BY id")).map(({ id }) => id);
  const { signal } = new AbortController();
  return { region, session, local, batch, holder, ids, signal };
};

test("a batch is merged while the commit before it is not answered, and is committed after it", async () => {
  const { region, session, local, batch, holder, ids, signal } = await held("20s");
  await using _ = region;
  const a = await local.merger.merge(batch(2n, "a"), signal);
  const b = local.merger.merge(batch(3n, "b"), signal);
  await eventually(async () => expect(await region.db.query(blockedSql, ["merge 2"])).toHaveLength(1));
  expect(await ids()).toEqual(["first"]);
  expect(local.status.mergedLsn).toBe(1n);
  await holder.query("ROLLBACK");
  await a.committed;
  expect(await ids()).toContain("a");
  const { committed } = await b;
  await committed;
  expect(await ids()).toEqual(["a", "b", "first"]);
  expect((await readProgress(session, 2))?.lsn).toBe(3n);
  expect(local.status).toMatchObject({ mergedLsn: 3n, transactions: 3, rows: 3 });
});

test.each(["its progress", "itself"])(
  "a batch is not committed where the commit before it has failed by %s",
  async (by) => {
    const { region, session, local, batch, holder, ids, signal } = await held("300ms");
    await using _ = region;
    if (by === "itself") await holder.query(`ROLLBACK; ${refusingAtCommit("NEW.id = 'a'", "55P03")}`);
    const { committed } = await local.merger.merge(batch(2n, "a"), signal);
    const next = local.merger.merge(batch(3n, "b"), signal);
    await expect(committed).rejects.toMatchObject({ code: "55P03" });
    await expect(next).rejects.toThrow();
    await expect(local.merger.merge(batch(4n, "c"), signal)).rejects.toThrow();
    await expect(local.merger.merge(keepaliveBatch(9n, 0n), signal)).rejects.toThrow();
    await holder.query("ROLLBACK");
    expect(await ids()).toEqual(["first"]);
    await session.rollback();
    expect((await readProgress(session, 2))?.lsn).toBe(1n);
    expect(local.status).toMatchObject({ mergedLsn: 1n, transactions: 1, rows: 1 });
  },
);

test("nothing of a batch is kept that was asked when the commit before it had failed", async () => {
  const { region, local, holder, batch, ids, signal } = await held("300ms");
  await using _ = region;
  await holder.query(`ROLLBACK; ${refusingAtCommit("NEW.id = 'a'", "55P03")}`);
  // As many new keys as go by COPY.
  const many = Array.from({ length: 300 }, (_, i) => ({
    state: row(at(i, 2)),
    fields: { id: `b${i}`, val: "" },
  }));
  const { committed } = await local.merger.merge(batch(2n, "a"), signal);
  const polled = local.merger.pollDurable();
  const next = local.merger.merge(batchUntil(3n, batchOf(region.table("t"), many)), signal);
  await expect(committed).rejects.toThrow("refused");
  await polled.catch(() => undefined);
  await expect(next).rejects.toThrow("refused");
  expect(await ids()).toEqual(["first"]);
});

test("an idle position is not recorded while a transaction is open, which that would commit", async () => {
  await using region = await MergeRegion.create({ schema: "CREATE TABLE t (id text PRIMARY KEY, val text)" });
  await using session = await region.session();
  let now = 0;
  const clock = { ...systemClock(), monotonic: () => now };
  const local = new LocalMerger(contextIn(region, { clock, limits: { idleProgressMs: 1_000 } }), { session });
  await local.merge(keepaliveBatch(1n, 0n));
  await local.merge(keepaliveBatch(2n, 0n));
  const piece = batchOf(region.table("t"), [{ state: row(at(1, 2)), fields: { id: "a", val: "" } }]);
  await local.merge({ ...batchUntil(3n, piece), transactions: 0, endsTransaction: false });
  now = 5_000;
  expect(local.merger.idleDueMs()).toBeNull();
  await local.merger.recordIdle();
  expect(await region.db.query("SELECT id FROM t")).toEqual([]);
  const end = batchOf(region.table("t"), [{ state: row(at(2, 2)), fields: { id: "b", val: "" } }]);
  await local.merge(batchUntil(4n, end));
  expect(await region.db.query("SELECT id FROM t ORDER BY id")).toEqual([{ id: "a" }, { id: "b" }]);
  expect((await readProgress(session, 2))?.lsn).toBe(4n);
});
