import { afterAll, expect, test } from "vitest";
import { clusterSlug } from "../../regions/topology.ts";
import { aheadOriginName } from "../../src/postgres/install/names.ts";
import type { MergeSession } from "../../src/replication/merge-session.ts";
import { SpareSession } from "../../src/replication/spare-session.ts";
import { MergeRegion } from "./merge-fixture.ts";
import { aheadName, contextIn } from "./merger-fixture.ts";

const region = await MergeRegion.create({ schema: "" });
afterAll(() => region[Symbol.asyncDispose]());

const pidOf = async ({ client }: MergeSession): Promise<number> => {
  const { rows } = await client.query<{ pid: number }>("SELECT pg_backend_pid() AS pid");
  return rows[0]!.pid;
};

const open = async (): Promise<number[]> =>
  (
    await region.db.query<{ pid: number }>(
      "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1",
      [aheadName],
    )
  ).map(({ pid }) => pid);

const origins = async (): Promise<unknown[]> =>
  region.db.query("SELECT FROM pg_replication_origin WHERE roname = $1", [
    aheadOriginName(clusterSlug(region.cluster)),
  ]);

test("there is one at a time, and nothing of it is left in the server when it was given back", async () => {
  const spare = new SpareSession(contextIn(region));
  const session = await spare.take();
  expect(await spare.take()).toBeNull();
  expect(await open()).toEqual([await pidOf(session!)]);
  expect(await origins()).toHaveLength(1);
  await spare.give(session!);
  expect(await open()).toEqual([]);
  expect(await origins()).toEqual([]);
  const other = await spare.take();
  expect(await open()).toEqual([await pidOf(other!)]);
  await spare.give(other!);
});

test("what another process has left is ended, what is in use is not", async () => {
  await using link = await region.session();
  const [before, now] = [new SpareSession(contextIn(region)), new SpareSession(contextIn(region))];
  const left = await before.take();
  await left!.begin();
  await before.evictLeftOver(link);
  expect(await open()).toEqual([await pidOf(left!)]);
  await now.evictLeftOver(link);
  expect(await open()).toEqual([]);
  await before.give(left!);
});
