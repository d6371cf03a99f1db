import { randomUUID } from "node:crypto";
import { pino } from "pino";
import { expect, test } from "vitest";
import { systemClock } from "../../src/clock.ts";
import { keepaliveBatch } from "../../src/replication/batch.ts";
import { Confirmation } from "../../src/replication/confirm.ts";
import { readProgress } from "../../src/replication/progress.ts";
import { SpareSession } from "../../src/replication/spare-session.ts";
import { newLinkStatus } from "../../src/replication/status.ts";
import { Sweeper } from "../../src/replication/sweeper.ts";
import { TransactionMerger } from "../../src/replication/transaction-merger.ts";
import { type AgentContext, defaultLimits } from "../../src/replication/wiring.ts";
import { MergeRegion } from "./merge-fixture.ts";

/** A walsender reads from its slot's restart_lsn on, and its first keepalives name positions that we merged long ago. */
test("progress does not go back to where a source has begun to read", async () => {
  await using region = await MergeRegion.create({ schema: "" });
  await using session = await region.session();
  const clock = systemClock();
  const context: AgentContext = {
    cluster: "test",
    region: { name: "here", id: 1, url: region.db.url },
    status: {} as AgentContext["status"],
    logger: pino({ level: "silent" }),
    clock,
    random: Math.random,
    limits: { ...defaultLimits, idleProgressMs: 0 },
    topology: () => ({ regionIds: [1, 2], peers: [] }),
  };
  const from = 5_000n;
  const confirmation = new Confirmation(from);
  const merger = new TransactionMerger({
    context,
    session,
    confirmation,
    spare: new SpareSession(context),
    sweeper: new Sweeper(),
    status: newLinkStatus("there", 2, clock.now()),
    origin: 2,
    incarnation: randomUUID(),
    fetch: () => Promise.reject(new Error("nothing is fetched")),
    askPosition: () => undefined,
  });
  const { signal } = new AbortController();
  await merger.noteDurable(from);
  await merger.merge(keepaliveBatch(4_999n, 0n), signal);
  expect(await readProgress(session, 2)).toBeNull();
  await merger.merge(keepaliveBatch(6_000n, 0n), signal);
  expect((await readProgress(session, 2))?.lsn).toBe(6_000n);
  await merger.merge(keepaliveBatch(4_000n, 0n), signal);
  expect((await readProgress(session, 2))?.lsn).toBe(6_000n);
  await merger.merge(keepaliveBatch(7_000n, 0n), signal);
  expect((await readProgress(session, 2))?.lsn).toBe(7_000n);
});
