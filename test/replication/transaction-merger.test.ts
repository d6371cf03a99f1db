import { expect, test } from "vitest";
import { keepaliveBatch } from "../../src/replication/batch.ts";
import { readProgress } from "../../src/replication/progress.ts";
import { MergeRegion } from "./merge-fixture.ts";
import { contextIn, LocalMerger } from "./merger-fixture.ts";

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
