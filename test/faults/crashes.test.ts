import { afterAll, beforeAll, expect, test } from "vitest";
import { topologyOf } from "../../src/config.ts";
import { formatLsn, parseLsn } from "../../src/replication/lsn.ts";
import { startCluster, type TestCluster } from "../../src/testing/index.ts";
import { configText } from "../../src/testing/config-file.ts";
import { LocalAgent } from "../replication/agents.ts";
import { eventually } from "../support/eventually.ts";

/**
 * Crashes of agents and servers, region b pulling from a. Commits at b become durable late (`wal_writer_delay`), so that
 * there is time between a merge and its confirmation.
 */

let cluster: TestCluster;
beforeAll(async () => {
  cluster = await startCluster({
    regions: 2,
    schema: "CREATE TABLE notes (id text PRIMARY KEY, body text NOT NULL DEFAULT '')",
    settings: { wal_sender_timeout: "2s", wal_writer_delay: "10s" },
  });
  await cluster.converged();
}, 120_000);
afterAll(() => cluster?.stop());

const sql = (region: string, text: string): Promise<Record<string, string>[]> =>
  cluster.region(region).sql<Record<string, string>>(text);
const arrives = (id: string, region = "b"): Promise<unknown> =>
  eventually(async () => (await sql(region, `SELECT FROM notes WHERE id = '${id}'`)).length > 0, {
    timeoutMs: 20_000,
    everyMs: 5,
    what: `${id} in ${region}`,
  });
const slotName = "coregent_test_1_2";
const confirmed = async (): Promise<bigint> =>
  parseLsn(
    (
      await sql(
        "a",
        `SELECT confirmed_flush_lsn::text AS lsn FROM pg_replication_slots WHERE slot_name = '${slotName}'`,
      )
    )[0]?.["lsn"] ?? "0/0",
  );
const merged = async (): Promise<bigint> =>
  parseLsn(
    (await sql("b", "SELECT lsn::text AS lsn FROM coregent.progress WHERE origin = 1"))[0]?.["lsn"] ?? "0/0",
  );
/** When the link that reads a's slot has last told what it confirms, by its own clock. */
const lastStatus = async (): Promise<string> =>
  (
    await sql(
      "a",
      `SELECT r.reply_time::text AS at FROM pg_stat_replication r
         JOIN pg_replication_slots s ON s.active_pid = r.pid WHERE s.slot_name = '${slotName}'`,
    )
  )[0]?.["at"] ?? "";
/** Makes everything committed at b durable. */
const flush = (): Promise<unknown> =>
  sql("b", "SELECT pg_logical_emit_message(true, 'test', ''), txid_current()");
/** Errors in the logs of b's agents: a resync is one. */
const resyncs = async (): Promise<number> =>
  (await cluster.region("b").agent.tail(2_000))
    .split("\n")
    .filter((line) => line.includes("will be copied") && line.includes('"level":50')).length;

/** An agent of b in this process, beside which none runs. */
const localAgent = (): LocalAgent => {
  const topology = topologyOf(
    configText(
      { regions: 2, cluster: "test" },
      cluster.regions.map(({ name, id, url, api }) => {
        const through = new URL(url);
        if (name === "a") through.port = String(cluster.network.proxy("b", "a").port);
        return { name, id, api, postgres: through.href };
      }),
    ),
    { file: "coregent.yaml", env: {} },
  );
  return new LocalAgent(() => topology, "b", { limits: { idleProgressMs: 60_000 } });
};

test("an agent killed between the merge's commit and its confirmation: the replay changes nothing (FAULTS 1, 2)", async () => {
  for (let round = 0; round < 3; round += 1) {
    await flush();
    await sql("a", `INSERT INTO notes VALUES ('killed ${round}')`);
    await arrives(`killed ${round}`);
    await cluster.kill("b", { what: "agent" });
    expect(await confirmed()).toBeLessThan(await merged());
    const [before] = await sql(
      "b",
      `SELECT xmin::text AS x, cg_version::text AS v FROM notes WHERE id = 'killed ${round}'`,
    );
    // The progress is written with the rows: to see them sent again, it has to go back to what was confirmed.
    await sql("b", `UPDATE coregent.progress SET lsn = '${formatLsn(await confirmed())}' WHERE origin = 1`);
    await cluster.restart("b");
    await sql("a", `INSERT INTO notes VALUES ('after ${round}')`);
    await arrives(`after ${round}`);
    expect(
      await sql("b", `SELECT xmin::text AS x, cg_version::text AS v FROM notes WHERE id = 'killed ${round}'`),
    ).toEqual([before]);
  }
});

test("a source killed: its slot falls back to a checkpoint, and nothing is merged twice or missed (FAULTS 4)", async () => {
  await sql("a", "CHECKPOINT");
  const old = await confirmed();
  await sql("a", "INSERT INTO notes SELECT 'crash' || i FROM generate_series(1, 50) i");
  await arrives("crash50");
  await flush();
  await eventually(async () => (await confirmed()) > old);
  const rows = await sql("b", "SELECT id, xmin::text FROM notes WHERE id LIKE 'crash%' ORDER BY id");
  await cluster.kill("a", { what: "server" });
  await cluster.restart("a");
  await sql("a", "INSERT INTO notes VALUES ('after the crash of a')");
  await arrives("after the crash of a");
  expect(await sql("b", "SELECT id, xmin::text FROM notes WHERE id LIKE 'crash%' ORDER BY id")).toEqual(rows);
  expect(await resyncs()).toBe(0);
});

test("a target killed before it has flushed: what it forgets was never confirmed (FAULTS 5)", async () => {
  let id = "";
  for (let round = 1; ; round++) {
    id = `forgotten ${round}`;
    if (await forgottenByCrash(id)) break;
    // The server flushes by itself every 10 s, and now and then that is just now.
    expect(round).toBeLessThan(5);
  }
  await arrives(id);
  expect(await resyncs()).toBe(0);
});

/** Whether b has forgotten a row that it had merged, since it was killed before it had flushed. Never if it was confirmed. */
const forgottenByCrash = async (id: string): Promise<boolean> => {
  await flush();
  await sql("a", `INSERT INTO notes VALUES ('${id}')`);
  await arrives(id);
  // A link that begins anew reads its progress, which is not durable either.
  const attempts = cluster.network.proxy("b", "a").counters.accepted;
  cluster.network.proxy("b", "a").resetConnections();
  await eventually(() => cluster.network.proxy("b", "a").counters.accepted >= attempts + 3);
  await eventually(async () => {
    const [slot] = await sql(
      "a",
      `SELECT active::text AS active FROM pg_replication_slots WHERE slot_name = '${slotName}'`,
    );
    expect(slot).toEqual({ active: "true" });
  });
  const known = await merged();
  // What the link says from now on, it says after the merge: twice, as it tells what has changed and tells it regularly.
  for (let told = 0; told < 2; told++) {
    const before = await lastStatus();
    await eventually(async () => (await lastStatus()) !== before, { what: "a status" });
  }
  const wasConfirmed = (await confirmed()) >= known;
  await cluster.kill("b", { what: "server" });
  await cluster.region("b").server.start();
  const forgotten = (await sql("b", `SELECT FROM notes WHERE id = '${id}'`)).length === 0;
  expect(forgotten && wasConfirmed).toBe(false);
  return forgotten;
};

test("an agent stopped for twice wal_sender_timeout comes back (FAULTS 6)", async () => {
  // From here on what is merged is soon durable, as usual.
  for (const { server } of cluster.regions) await server.configure({ wal_writer_delay: null });
  cluster.pauseAgent("b");
  await sql("a", "INSERT INTO notes VALUES ('while it was stopped')");
  await eventually(
    async () => {
      const [slot] = await sql(
        "a",
        `SELECT active::text AS active FROM pg_replication_slots WHERE slot_name = '${slotName}'`,
      );
      expect(slot).toEqual({ active: "false" });
    },
    { timeoutMs: 15_000 },
  );
  cluster.resumeAgent("b");
  await arrives("while it was stopped");
  expect(await resyncs()).toBe(0);
});

test("two commit records side by side, the first confirmed: the second is merged (FAULTS 3)", async () => {
  await cluster.stopAgent("a");
  await cluster.stopAgent("b");
  const agent = localAgent();
  const sessions = await Promise.all([1, 2].map(() => cluster.region("a").connect()));
  try {
    await agent.streaming();
    const [first, second] = sessions;
    if (first === undefined || second === undefined) throw new Error("no sessions");
    for (let round = 0; round < 20; round += 1) {
      for (const [i, session] of sessions.entries()) {
        await session.query("BEGIN");
        await session.query(`INSERT INTO notes VALUES ('adjacent ${round} ${i}')`);
      }
      await first.query("COMMIT");
      await arrives(`adjacent ${round} 0`);
      await flush();
      const end = await merged();
      await eventually(async () => expect(await confirmed()).toBe(end));
      const [position] = await sql("a", "SELECT pg_current_wal_insert_lsn()::text AS lsn");
      const adjacent = parseLsn(position?.["lsn"] ?? "") === end;
      cluster.network.proxy("b", "a").cut({ mode: "reset" });
      await second.query("COMMIT");
      cluster.network.proxy("b", "a").heal();
      await arrives(`adjacent ${round} 1`);
      if (adjacent) return;
    }
    throw new Error("no two commits came to lie side by side");
  } finally {
    await Promise.all(sessions.map((session) => session.end()));
    await agent.stop();
    await cluster.startAgent("a");
    await cluster.startAgent("b");
  }
});

test("a slot whose WAL is gone is made anew, and its states are copied (FAULTS 9)", async () => {
  await cluster.region("a").server.configure({ max_slot_wal_keep_size: "1MB" });
  await cluster.stopAgent("b");
  await sql("a", "DELETE FROM notes WHERE id = 'forgotten'");
  await sql("a", "INSERT INTO notes VALUES ('while the slot was lost')");
  const lost = async (): Promise<boolean> => {
    await sql("a", "SELECT pg_switch_wal()");
    await sql("a", "CREATE TABLE IF NOT EXISTS bulk (t text)");
    await sql("a", "INSERT INTO bulk SELECT repeat('x', 100) FROM generate_series(1, 100)");
    await sql("a", "CHECKPOINT");
    return (
      (
        await sql(
          "a",
          `SELECT FROM pg_replication_slots WHERE slot_name = '${slotName}' AND wal_status = 'lost'`,
        )
      ).length > 0
    );
  };
  await eventually(lost, { timeoutMs: 20_000 });
  await sql("a", "DROP TABLE bulk");
  await cluster.region("a").server.configure({ max_slot_wal_keep_size: "-1" });
  await cluster.startAgent("b");
  await arrives("while the slot was lost");
  await cluster.converged();
  expect(await sql("b", "SELECT FROM notes WHERE id = 'forgotten'")).toEqual([]);
  expect(await resyncs()).toBe(1);
  expect(await cluster.region("b").agent.tail(2_000)).toContain("given up this region's slot");
  await sql("a", "INSERT INTO notes VALUES ('after the resync')");
  await arrives("after the resync");
  expect(await resyncs()).toBe(1);
});

test("a source shuts down though its consumer is stalled (FAULTS 7)", async () => {
  await sql("a", "INSERT INTO notes VALUES ('held', 'first')");
  await arrives("held");
  const local = await cluster.region("b").connect();
  await local.query("BEGIN; UPDATE notes SET body = 'local' WHERE id = 'held'");
  await sql("a", "UPDATE notes SET body = 'from a' WHERE id = 'held'");
  await eventually(
    async () => (await sql("b", "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'")).length > 0,
    { everyMs: 5 },
  );
  const started = performance.now();
  expect(await cluster.region("a").server.stop("fast")).toBe(true);
  expect(performance.now() - started).toBeLessThan(15_000);
  await local.query("COMMIT");
  await local.end();
  await cluster.restart("a");
  await cluster.converged();
  expect(await cluster.region("b").agent.stop()).toBe(true);
  await cluster.startAgent("b");
});
