import { expect, test } from "vitest";
import { systemClock } from "../../src/clock.ts";
import { SlotWatch } from "../../src/write/durable.ts";
import { startCluster, type TestCluster } from "../../src/testing/index.ts";
import { eventually } from "../support/eventually.ts";
import { Behind, Masters, Session, type Statement } from "./clients.ts";

/** Masters that are killed, with agents as processes of their own: what a writer elsewhere knows is in the databases. */

const start = (settings: Readonly<Record<string, string>> = {}): Promise<TestCluster> =>
  startCluster({
    regions: 3,
    schema: "CREATE TABLE notes (id text PRIMARY KEY, n int NOT NULL)",
    settings,
  });
const mastersOf = (cluster: TestCluster): Masters =>
  new Masters({ cluster: "test", masters: cluster.regions });
const put = (id: string, n: number): Statement => ({
  text: `INSERT INTO public.notes VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET n = excluded.n RETURNING cg_version`,
  values: [id, n],
});
const get = (id: string): Statement => ({
  text: "SELECT n, cg_version FROM public.notes WHERE id = $1",
  values: [id],
});
const { signal } = new AbortController();

test("a session goes on after its master was killed: what it wrote is read where it is, and outranked by what it writes next", async () => {
  await using cluster = await start();
  await using masters = mastersOf(cluster);
  const [a, , c] = cluster.regions;
  const session = new Session(masters);
  cluster.cut("a", "c");
  await cluster.skewClock("a", 3_600_000);
  const { committed } = await session.write("a", put("x", 1));
  const slots = new SlotWatch(masters.pool("a"), {
    cluster: "test",
    region: a?.id ?? 0,
    clock: systemClock(),
    members: () => new Set(cluster.regions.map(({ id }) => id)),
    pulse: () => undefined,
  });
  const durable = await slots.wait({ lsn: committed, regions: 1, waitMs: 30_000, signal });
  expect([...durable]).toEqual([cluster.region("b").id]);
  await cluster.kill("a");

  await expect(session.read("c", { ...get("x"), waitMs: 200 })).rejects.toThrow(Behind);
  expect(await session.read("b", get("x"))).toMatchObject([{ n: 1 }]);
  // c has never seen the row, and its clock is an hour behind the one that stamped it.
  await session.write("c", put("x", 2));
  expect(await c?.sql("SELECT n FROM notes")).toEqual([{ n: 2 }]);
  // Where what it has seen is together, it is served: the dead master's write came to b, and c's will.
  expect(await session.read("b", { ...get("x"), waitMs: 30_000 })).toMatchObject([{ n: 2 }]);

  cluster.heal();
  await cluster.restart("a");
  await cluster.converged();
  for (const region of cluster.regions) expect(await region.sql("SELECT n FROM notes")).toEqual([{ n: 2 }]);
  expect(await session.read("a", { ...get("x"), waitMs: 30_000 })).toMatchObject([{ n: 2 }]);
  expect(await session.read("c", { ...get("x"), waitMs: 30_000 })).toMatchObject([{ n: 2 }]);
});

test("a master that loses what it had merged and not flushed does not claim to have it", async () => {
  await using cluster = await start({ wal_writer_delay: "10s" });
  await using masters = mastersOf(cluster);
  const [, b] = cluster.regions;
  const session = new Session(masters);
  await session.write("a", put("x", 1));
  expect(await session.read("b", get("x"))).toMatchObject([{ n: 1 }]);
  cluster.cut("a", "b");
  await cluster.kill("b");
  await b?.server.start();
  expect(await b?.sql("SELECT FROM notes")).toEqual([]);
  // The pool's old sessions are broken; only an answer counts.
  const answer = await eventually(() =>
    session.read("b", { ...get("x"), waitMs: 200 }).catch((error: unknown) => {
      if (error instanceof Behind) return "behind";
      throw error;
    }),
  );
  expect(answer).toBe("behind");
  cluster.heal();
  await cluster.startAgent("b");
  expect(await session.read("b", { ...get("x"), waitMs: 30_000 })).toMatchObject([{ n: 1 }]);
});
