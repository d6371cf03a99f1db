import { afterAll, afterEach, beforeAll, expect, test, vi } from "vitest";
import { reactionTo } from "../../src/postgres/sqlstate.ts";
import type { Batch } from "../../src/replication/batch.ts";
import { MergeAhead } from "../../src/replication/merge-ahead.ts";
import { systemClock } from "../../src/clock.ts";
import { eventually } from "../support/eventually.ts";
import { HandClock } from "../support/hand-clock.ts";
import { aheadRegion, AheadScene, bury, conflicts, put } from "./merge-ahead-fixture.ts";
import { batchOf, type MergeRegion } from "./merge-fixture.ts";
import { at, future, mergeNow } from "./merge-helpers.ts";
import { aheadName, batchUntil, contextIn, LocalMerger } from "./merger-fixture.ts";

let region: MergeRegion;

beforeAll(async () => {
  region = await aheadRegion();
});
afterAll(() => region[Symbol.asyncDispose]());
afterEach(() => vi.restoreAllMocks());

/** Of a key of the first batch. */
const lockOfA = "INSERT INTO t VALUES ('a', 'locked')";

/** How many batches went on, in their turn, in the session in which they were begun. */
const countAhead = (): (() => number) => {
  const take = vi.spyOn(MergeAhead.prototype, "take");
  return () => take.mock.results.filter(({ value }) => value !== null).length;
};

type Held = Pick<Awaited<ReturnType<AheadScene["held"]>>, "holder" | "done">;

/** Nothing can be seen until the lock is given up; then the first of the batches, and with `next` the second. */
const mergedInTurn = async (scene: AheadScene, { holder, done }: Held, next: Batch): Promise<void> => {
  expect(await scene.seen()).toEqual({ lsn: null, ids: [] });
  await holder.query("ROLLBACK");
  await done;
  expect(await scene.seen()).toEqual({ lsn: 10, ids: ["a"] });
  await scene.local.merge(next);
  expect(await scene.seen()).toEqual({ lsn: 20, ids: ["a", "b"] });
};

test("the next batch is merged while one waits, and nothing of it can be seen before that is committed", async () => {
  await using scene = await AheadScene.open(region);
  const [a, b] = scene.apart();
  const held = await scene.held(lockOfA, [a, b]);
  await mergedInTurn(scene, held, b);
  // Not merged anew.
  expect(await region.db.query("SELECT xmin::text AS xid FROM t WHERE id = 'b'")).toEqual([
    { xid: held.ahead.xid },
  ]);
  expect(await scene.aheads()).toMatchObject([{ state: "idle", xid: null, locks: 0 }]);
});

test("a batch that yields to a local writer is tried again, and the one that was begun with it anew", async () => {
  await using scene = await AheadScene.open(region, "300ms");
  const [a, b] = scene.apart();
  const held = await scene.held(lockOfA, [a, b]);
  await eventually(async () => {
    expect(await scene.aheads()).toMatchObject([{ state: "idle", xid: null, locks: 0 }]);
  });
  expect(scene.local.status.errors.get("retry")).toBeGreaterThan(0);
  await mergedInTurn(scene, held, b);
});

test("commits come in the peer's order, each with its progress, whichever session they come from", async () => {
  await using scene = await AheadScene.open(region);
  const ahead = countAhead();
  const id = (n: number): string => String(n).padStart(3, "0");
  const batches = Array.from({ length: 60 }, (_, i) =>
    scene.batch(i + 1, put(id(i + 1), i), put(`${id(i + 1)}+`, i)),
  );
  const watching = await region.db.connect();
  let done = false;
  const watched = (async () => {
    const lsns = new Set<number | null>();
    while (!done) {
      const { lsn, ids } = await scene.seen(watching);
      lsns.add(lsn);
      expect(ids).toEqual(Array.from({ length: lsn ?? 0 }, (_, i) => [id(i + 1), `${id(i + 1)}+`]).flat());
    }
    return lsns.size;
  })();
  await scene.local.mergeAll(batches).finally(() => (done = true));
  expect(await watched).toBeGreaterThan(1);
  expect((await scene.seen()).lsn).toBe(60);
  expect(ahead()).toBeGreaterThan(40);
  await scene.nothingLost();
});

test("none is begun that has a key of the batch before, or that is not whole", async () => {
  await using scene = await AheadScene.open(region);
  await scene.local.merger.release();
  const ahead = new MergeAhead(scene.local.spare, systemClock());
  await using stack = new AsyncDisposableStack();
  stack.defer(() => ahead.release());
  ahead.ask();
  await scene.local.asked.mock.results.at(-1)?.value;
  await new Promise(setImmediate);
  const whole = scene.batch(10, put("a", 1), bury("b", 1), put("c", 1));
  const partial = { ...put("d", 2, { prev: at(1, 2) }), unchanged: ["val"] };
  const { val: _, ...fields } = partial.fields;
  const next: Readonly<Record<string, Batch>> = {
    "a row of each": scene.batch(20, put("0", 2), put("c", 2), put("d", 2)),
    "a row and a tombstone": scene.batch(20, bury("a", 2)),
    "a tombstone and a row": scene.batch(20, put("b", 2)),
    "a tombstone of each": scene.batch(20, bury("b", 2), put("d", 2)),
    "a row that is not whole": scene.batch(20, { ...partial, fields }),
    "a piece of a transaction": { ...scene.batch(20, put("d", 2)), endsTransaction: false, transactions: 0 },
    "its end": { ...scene.batch(20, put("d", 2)), transactions: 0 },
    "a keepalive": { ...batchUntil(20n), transactions: 0 },
  };
  const begun = Object.keys(next).filter(
    (name) => ahead.begin(whole, next[name]!) || ahead.begin(next[name]!, whole),
  );
  expect(begun).toEqual([]);
  const apart = scene.batch(20, put("d", 2));
  expect(ahead.begin(whole, apart)).toBe(true);
  expect(ahead.begin(whole, scene.batch(30, put("e", 3)))).toBe(false);
  expect(await scene.merged()).toBeDefined();
  await ahead.release();
  expect(await scene.seen()).toEqual({ lsn: null, ids: [] });
});

const nameInUse = [put("holder", 1, { name: "n" }), put("z", 1)] as const;
const renamed = (scene: AheadScene): [Batch, Batch] => [
  scene.batch(10, bury("holder", 2, { prev: at(1, 2) }), put("a", 2)),
  scene.batch(20, put("heir", 3, { name: "n" })),
];

/** The first of them can go on, and the second one, `next`, has its turn. */
const renamedInTurn = async (scene: AheadScene, { holder, done }: Held, next: Batch): Promise<void> => {
  await holder.query("ROLLBACK");
  await done;
  await scene.local.merge(next);
  expect(await scene.seen()).toEqual({ lsn: 20, ids: ["a", "heir", "z"] });
  await scene.nothingLost();
  expect([...scene.local.status.errors]).toEqual([]);
};

test("what needs what the batch before has not given up yet is merged when it has", async () => {
  await using scene = await AheadScene.open(region);
  await scene.local.merge(scene.batch(1, ...nameInUse));
  const holder = await region.db.connect();
  await holder.query(`BEGIN; ${lockOfA}`);
  const [a, b] = renamed(scene);
  const { done } = await scene.local.begin(a, b);
  await scene.blocked("merge 2");
  // It has failed: the value is still there.
  await eventually(async () =>
    expect(await scene.aheads()).toMatchObject([{ state: "idle in transaction (aborted)" }]),
  );
  await renamedInTurn(scene, { holder, done }, b);
});

test.each([true, false])(
  "what waits for what the batch before is giving up goes on when that is committed (in time: %s)",
  async (inTime) => {
    await using scene = await AheadScene.open(region);
    await scene.local.merge(scene.batch(1, ...nameInUse));
    const holder = await region.db.connect();
    // Its row is gone, but it cannot commit.
    await holder.query("BEGIN; SELECT FROM coregent.progress FOR UPDATE");
    const [a, b] = renamed(scene);
    const done = scene.local.merge(a);
    await scene.blocked("merge 2");
    scene.local.merger.prepare(b);
    await eventually(async () => {
      const [ahead] = await scene.aheads();
      const failed = ahead?.state === "idle in transaction (aborted)";
      return failed || (inTime && (await scene.waits(aheadName)));
    });
    await renamedInTurn(scene, { holder, done }, b);
  },
);

test("a batch that waits for the next one, which waits for its turn, is tried again without it", async () => {
  await using scene = await AheadScene.open(region, "1s");
  // The row was deleted here upon that of the first batch: it takes the name for a moment, as it comes and goes.
  await scene.local.merge(scene.batch(1, put("a", 1), bury("passing", 9, { prev: at(2, 2) })));
  const a = scene.batch(10, put("a", 2, { prev: at(1, 2) }), put("passing", 2, { name: "n" }));
  const b = scene.batch(20, put("heir", 3, { name: "n" }));
  const { holder, done, ahead } = await scene.held("UPDATE t SET val = 'locked' WHERE id = 'a'", [a, b]);
  await holder.query("ROLLBACK");
  const pid = await scene.pid();
  await eventually(async () => {
    expect(await region.db.query("SELECT pg_blocking_pids($1) AS by", [pid])).toEqual([{ by: [ahead.pid] }]);
  });
  await done;
  expect([...scene.local.status.errors]).toEqual([["retry", 1]]);
  await scene.local.merge(b);
  expect(await scene.seen()).toEqual({ lsn: 20, ids: ["a", "heir"] });
  await scene.nothingLost();
});

test("a batch that was merged ahead and yields in its own turn is merged anew, with its states", async () => {
  await using scene = await AheadScene.open(region);
  const [a, b] = scene.apart();
  const { holder, done, ahead } = await scene.held(lockOfA, [a, b]);
  await holder.query("ROLLBACK");
  await done;
  await holder.query("BEGIN; SELECT FROM coregent.progress FOR UPDATE");
  const merging = scene.local.merge(b);
  await eventually(() => (scene.local.status.errors.get("retry") ?? 0) > 0);
  await holder.query("ROLLBACK");
  await merging;
  expect(await scene.seen()).toEqual({ lsn: 20, ids: ["a", "b"] });
  const [row] = await region.db.query("SELECT xmin::text AS xid FROM t WHERE id = 'b'");
  expect(row).not.toEqual({ xid: ahead.xid });
});

test("a local writer between the two is not waited for in a circle, and what it wrote is not lost", async () => {
  await using scene = await AheadScene.open(region, "1s");
  await scene.local.merge(scene.batch(1, put("a", 1), put("b", 1)));
  const upon = { prev: at(1, 2) };
  const above = (id: string) => ({
    ...put(id, 2),
    state: { ...put(id, 2, upon).state, version: future(2, 2) },
  });
  const [a, b] = [scene.batch(10, above("a")), scene.batch(20, above("b"))];
  const { holder, done } = await scene.held("UPDATE t SET val = 'local' WHERE id = 'a'", [a, b]);
  await holder.query("UPDATE t SET val = 'local' WHERE id = 'b'");
  await holder.query("COMMIT");
  await done;
  await scene.local.merge(b);
  expect((await scene.seen()).lsn).toBe(20);
  expect(await region.db.query("SELECT id, val FROM t ORDER BY id")).toEqual([
    { id: "a", val: "" },
    { id: "b", val: "" },
  ]);
  expect(
    await region.db.query("SELECT key, loser_row ->> 'val' AS val FROM coregent.conflict ORDER BY key"),
  ).toEqual([
    { key: '["a"]', val: "local" },
    { key: '["b"]', val: "local" },
  ]);
});

const refusing = `
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused' USING ERRCODE = '28000'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON t FOR EACH ROW WHEN (NEW.val = 'refused') EXECUTE FUNCTION refuse();
ALTER TABLE t ENABLE ALWAYS TRIGGER refuse;`;

test.each([
  { how: "its session ends", reaction: "retry" },
  { how: "it is refused", reaction: "stop" },
])("nothing is left of a batch whose predecessor has failed for good: $how", async ({ reaction }) => {
  await using scene = await AheadScene.open(region);
  await scene.local.merge(scene.batch(1, put("a", 1)));
  await region.db.query(refusing);
  const a = scene.batch(10, put("a", 2, { prev: at(1, 2) }), put("a too", 2, { val: "refused" }));
  const b = scene.batch(20, put("b", 3));
  const { holder, done } = await scene.held("UPDATE t SET val = 'locked' WHERE id = 'a'", [a, b]);
  if (reaction === "retry") await region.db.query("SELECT pg_terminate_backend($1)", [await scene.pid()]);
  else await holder.query("ROLLBACK");
  expect(reactionTo(await done.catch((error: unknown) => error), "stream")).toBe(reaction);
  expect(await scene.aheads()).toMatchObject([{ state: "idle", xid: null, locks: 0 }]);
  expect(await scene.seen()).toEqual({ lsn: 1, ids: ["a"] });
  await holder.query("ROLLBACK");
  await scene.local[Symbol.asyncDispose]();
  expect(await scene.aheads()).toEqual([]);

  await region.db.query("DROP FUNCTION refuse CASCADE");
  const ahead = countAhead();
  await (await scene.begin()).mergeAll([a, b]);
  expect(ahead()).toBe(1);
  expect(await scene.seen()).toEqual({ lsn: 20, ids: ["a", "a too", "b"] });
  await scene.nothingLost();
});

test.each([true, false])(
  "where the second session ends, nothing is lost, and the link goes on in its own unless states are merged in it (%s)",
  async (inIt) => {
    await using scene = await AheadScene.open(region);
    const [a, b] = scene.apart();
    const c = scene.batch(30, put("c", 3));
    const end = async (pid: number): Promise<void> => {
      await region.db.query("SELECT pg_terminate_backend($1, 5000)", [pid]);
    };
    if (inIt) {
      const { holder, done, ahead } = await scene.held(lockOfA, [a, b]);
      await end(ahead.pid);
      await holder.query("ROLLBACK");
      await done;
    } else {
      const [{ pid } = { pid: 0 }] = await scene.aheads();
      await end(pid);
      await (
        await scene.local.begin(a, b)
      ).done;
    }
    const failure = await scene.local.merge(b).catch((error: unknown) => error);
    if (inIt) {
      expect(reactionTo(failure, "stream")).toBe("retry");
      expect(await scene.seen()).toEqual({ lsn: 10, ids: ["a"] });
      await scene.local[Symbol.asyncDispose]();
      await (await scene.begin()).mergeAll([b, c]);
    } else {
      expect(failure).toBeUndefined();
      await scene.local.merge(c);
      expect(await scene.aheads()).toEqual([]);
    }
    expect(await scene.seen()).toEqual({ lsn: 30, ids: ["a", "b", "c"] });
  },
);

const outcome = async (ahead: boolean): Promise<Record<string, unknown>> => {
  await using scene = await AheadScene.open(region);
  const [one, two] = [conflicts("a"), conflicts("b")];
  await using session = await region.session({ origin: null });
  for (const states of [one.here, two.here, one.other, two.other])
    await mergeNow(session, batchOf(region.table("t"), states));
  const log = (): Promise<unknown[]> =>
    region.db.query(
      `SELECT to_jsonb(c) - '{cg_version,cg_prev,cg_seen,detected_at}'::text[] AS entry FROM coregent.conflict AS c ORDER BY key, loser_version`,
    );
  const before = await log();
  const [a, b] = [scene.batch(10, put("a", 1), ...one.there), scene.batch(20, ...two.there)];
  if (ahead) {
    const { holder, done } = await scene.held(lockOfA, [a, b]);
    await holder.query("ROLLBACK");
    await done;
  } else await scene.local.merge(a);
  await scene.local.merge(b);
  return {
    before,
    log: await log(),
    rows: await region.db.query("SELECT id, val, cg_version FROM t ORDER BY id"),
    counted: [...scene.local.status.conflicts],
    locally: await region.db.query("SELECT DISTINCT cg_version & 1023 AS region FROM coregent.conflict"),
  };
};

test("the conflict log is the same as where batches are merged one after the other", async () => {
  const ahead = countAhead();
  const expected = await outcome(false);
  expect(ahead()).toBe(0);
  expect(expected["before"]).toHaveLength(2);
  expect(expected["log"]).toHaveLength(12);
  expect(await outcome(true)).toEqual(expected);
  expect(ahead()).toBe(1);
});

/** One after the other by this merger, each with a key of its own. */
const many = (scene: AheadScene, prefix: string, count = 30): Batch[] =>
  Array.from({ length: count }, (_, i) => scene.batch(100 + i, put(`${prefix} ${100 + i}`, i)));

test("of several links one has the second session, and gives it back when it is current", async () => {
  await using scene = await AheadScene.open(region);
  const { local } = scene;
  const time = new HandClock();
  await using session = await region.session({ origin: 3 });
  await using other = new LocalMerger(contextIn(region, { clock: time.clock }), {
    session,
    spare: local.spare,
    origin: 3,
  });
  await other.ready();
  expect(await scene.aheads()).toHaveLength(1);
  const ahead = countAhead();
  await Promise.all([local.mergeAll(many(scene, "one")), other.mergeAll(many(scene, "other"))]);
  expect(ahead()).toBeGreaterThan(20);
  expect(ahead()).toBeLessThan(30);
  expect((await scene.seen()).ids).toHaveLength(60);

  await local.merger.release();
  await eventually(async () => expect(await scene.aheads()).toEqual([]));
  // It does not ask again at once.
  await other.ready();
  expect(await scene.aheads()).toEqual([]);
  await time.goOn(10_000);
  await other.ready();
  const before = ahead();
  await other.mergeAll(many(scene, "then"));
  expect(ahead() - before).toBe(29);
  await local.mergeAll(many(scene, "alone", 3));
  expect((await scene.seen()).ids).toHaveLength(93);
  expect(await scene.aheads()).toHaveLength(1);
  await scene.nothingLost();
});

test("a link that is current in the middle of a transaction keeps the session that has it", async () => {
  await using scene = await AheadScene.open(region);
  const { local } = scene;
  const [a, b] = scene.apart();
  const ahead = countAhead();
  await local.mergeAll([a, b]);
  expect(ahead()).toBe(1);
  await local.merge({ ...scene.batch(30, put("c", 3)), transactions: 0, endsTransaction: false });
  await local.merger.release();
  await local.merge(scene.batch(40, put("d", 4)));
  expect(await scene.seen()).toEqual({ lsn: 40, ids: ["a", "b", "c", "d"] });
  await local.merger.release();
  expect(await scene.aheads()).toEqual([]);
  await local.merge(scene.batch(50, put("e", 5)));
  expect((await scene.seen()).lsn).toBe(50);
});
