import { setImmediate } from "node:timers/promises";
import { pino } from "pino";
import { expect, test } from "vitest";
import { systemClock } from "../../src/clock.ts";
import { startSweeper } from "../../src/replication/sweep-loop.ts";
import { type AgentContext, defaultLimits } from "../../src/replication/wiring.ts";
import { eventually } from "../support/eventually.ts";
import { batchOf, MergeRegion } from "./merge-fixture.ts";
import { future, mergeNow, tombstone } from "./merge-helpers.ts";

const setUp = async () => {
  const region = await MergeRegion.create({ schema: "CREATE TABLE t (id text PRIMARY KEY, val text)" });
  const session = await region.session();
  const ending = new AbortController();
  const pauses: number[] = [];
  const context: AgentContext = {
    cluster: "test",
    region: { name: "here", id: 1, url: region.db.url },
    status: {} as AgentContext["status"],
    logger: pino({ level: "silent" }),
    clock: {
      ...systemClock(),
      sleep: async (ms) => {
        pauses.push(ms);
        await setImmediate();
      },
    },
    random: Math.random,
    limits: defaultLimits,
    topology: () => ({ regionIds: [1, 2], peers: [] }),
  };
  const { sweeper, done } = startSweeper(context, ending.signal);
  /** Has nothing to do, and does not look whether it has. */
  const asleep = () =>
    eventually(async () => {
      const before = pauses.length;
      for (let turn = 0; turn < 10; turn++) await setImmediate();
      expect(before).toBeGreaterThan(0);
      expect({ waiting: sweeper.waiting, pauses: pauses.length }).toEqual({ waiting: 0, pauses: before });
    });
  const rows = () => region.db.query("SELECT id FROM t");
  const bury = async (): Promise<void> => {
    const buried = batchOf(region.table("t"), [{ state: tombstone(future(1, 2)), fields: { id: "a" } }]);
    for (const keys of (await mergeNow(session, buried)).sweepLater) sweeper.add(keys);
  };
  /** Something to do for the sweeper, which had nothing: a key is buried that the session given has just inserted. */
  const buryBeside = async () => {
    await asleep();
    const local = await region.db.connect();
    await local.query("BEGIN; INSERT INTO t VALUES ('a', 'local')");
    await bury();
    return local;
  };
  const end = async (): Promise<void> => {
    ending.abort();
    await done;
    await region[Symbol.asyncDispose]();
  };
  return { pauses, asleep, rows, buryBeside, [Symbol.asyncDispose]: end };
};

test("the sweeper sleeps while there is nothing to do, and wakes up for a key that may need it", async () => {
  await using sweeping = await setUp();
  const { pauses, asleep, rows, buryBeside } = sweeping;
  const local = await buryBeside();
  // As long as the transaction may go on it looks again.
  const begun = pauses.length;
  await eventually(() => pauses.length > begun + 3);
  await local.query("COMMIT");
  await eventually(async () => expect(await rows()).toEqual([]));
  await asleep();
});

test("what the sweeper could not sweep it tries again without being told", async () => {
  await using sweeping = await setUp();
  const { pauses, asleep, rows, buryBeside } = sweeping;
  const local = await buryBeside();
  const failing = (): number => pauses.filter((ms) => ms === 1000).length;
  await local.query("COMMIT; ALTER TABLE t RENAME COLUMN id TO other");
  await eventually(() => failing() > 1);
  await local.query("ALTER TABLE t RENAME COLUMN other TO id");
  await eventually(async () => expect(await rows()).toEqual([]));
  await asleep();
});
