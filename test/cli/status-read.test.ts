import { openEndpoint } from "../../regions/endpoint-settings.ts";
import { createServer, type AddressInfo, type Socket } from "node:net";
import { once } from "node:events";
import { describe, expect, test } from "vitest";
import { noClientSettings } from "../../regions/client-settings.ts";
import type { Region, Topology } from "../../regions/topology.ts";
import { postgresUrl } from "../../regions/secret.ts";
import { defaultWriterSettings } from "../../regions/writer-settings.ts";
import { readRegions, slotName, type RegionReading } from "../../src/cli/status-read.ts";
import { freePort } from "../../src/embedded/ports.ts";
import { installRegion } from "../../src/postgres/install/region.ts";
import { agentLockKey, tryAgentLock } from "../../src/postgres/agent-lock.ts";
import { agentStatus, startServer } from "../http/agent-fixture.ts";
import { createDatabase, serverUrl, uniqueName } from "../support/database.ts";

const options = { connectTimeoutMs: 1000, now: () => Date.now() };

const region = (name: string, id: number, url: string, api = "http://127.0.0.1:9"): Region => ({
  name,
  id,
  latitude: 0,
  longitude: 0,
  postgres: postgresUrl(url),
  api,
  entrance: null,
});

const topologyWith = (cluster: string, ...regions: Region[]): Topology => ({
  cluster,
  regions,
  schemas: ["public"],
  tables: [],
  writer: defaultWriterSettings,
  clients: noClientSettings,
  endpoint: openEndpoint,
  outages: { allowed: false },
});

/** Takes connections and never says a word, like a server that was stopped or a cut that nobody is told of. */
const mute = async (): Promise<AsyncDisposable & { port: number }> => {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => sockets.add(socket)).listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    port: (server.address() as AddressInfo).port,
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) {
        socket.destroy();
      }
      await new Promise((resolve) => server.close(resolve));
    },
  };
};

const errorOf = (reading: RegionReading | undefined): string =>
  reading !== undefined && "error" in reading.database ? reading.database.error : "no error";

test("regions that cannot be read cost one timeout together, and each says why", async () => {
  await using silent = await mute();
  await using db = await createDatabase();
  const gone = new URL(db.url);
  gone.pathname = "/no_such_database";
  const url = (port: number): string => `postgres://x@127.0.0.1:${port}/x`;
  const started = performance.now();
  const readings = await readRegions(
    topologyWith(
      "c",
      region("refused", 1, url(await freePort())),
      region("silent", 2, url(silent.port), `http://127.0.0.1:${silent.port}`),
      region("nameless", 3, "postgres://x@nowhere.invalid/x", "http://nowhere.invalid"),
      region("wrong", 4, gone.href),
      region("bare", 5, db.url),
    ),
    options,
  );
  expect(performance.now() - started).toBeLessThan(5000);
  expect(errorOf(readings[0])).toContain("ECONNREFUSED");
  expect(errorOf(readings[1])).toMatch(/timeout/i);
  expect(errorOf(readings[2])).toMatch(/ENOTFOUND|EAI_AGAIN/);
  expect(errorOf(readings[3])).toContain("no_such_database");
  expect(readings[4]?.database).toMatchObject({
    installed: null,
    serverVersion: expect.stringMatching(/^18/) as string,
  });
  for (const { agent } of readings) {
    expect(agent).toHaveProperty("error");
  }
});

describe("an installed region", () => {
  test("shows its slots, progress, resyncs, quarantine, conflicts and whether an agent works", async () => {
    await using db = await createDatabase();
    const cluster = uniqueName("c");
    await using agent = await startServer(agentStatus());
    const topology = topologyWith(cluster, region("moldova", 1, db.url, agent.url));
    await db.query("CREATE TABLE public.users (id uuid PRIMARY KEY)");
    const session = await db.connect();
    await installRegion(session, { topology, region: topology.regions[0] as Region });
    const slot = slotName(cluster, 1, 2);
    await db.query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", [slot]);
    await db.query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", [
      slotName(`${cluster}_1`, 1, 2),
    ]);
    await db.query(`INSERT INTO public.users SELECT gen_random_uuid() FROM generate_series(1, 1000)`);
    await db.query(
      `INSERT INTO coregent.progress (origin, incarnation, lsn, updated_at)
       VALUES (2, gen_random_uuid(), '1/A', now() - interval '7 seconds')`,
    );
    await db.query(
      `INSERT INTO coregent.table_sync (origin, table_name, kind, reason, rows_done)
       VALUES (2, 'public.users', 'full', 'joins', 5) ON CONFLICT DO NOTHING`,
    );
    await db.query(
      `INSERT INTO coregent.quarantine (table_name, key, kind, version, origin, reason, first_at)
       SELECT 'public.users', k::text, 'row', 1, 2, 'does not fit', now() - interval '1 minute' FROM generate_series(1, 3) k`,
    );
    // One loser, reported by two regions.
    await db.query(
      `INSERT INTO coregent.conflict (table_name, key, loser_version, type, loser_kind, detected_in)
       SELECT 'public.users', '["1"]', 1, 'insert_exists', 'row', r FROM generate_series(1, 2) r`,
    );
    const [reading] = await readRegions(topology, options);
    expect(reading?.agent).toMatchObject({ region: "moldova", role: "active" });
    expect(reading?.database).toMatchObject({
      installed: {
        cluster,
        regionId: 1,
        regionName: "moldova",
        tables: 1,
        agentActive: false,
        progress: [{ origin: 2, lsn: "1/A" }],
        quarantine: [{ table: "public.users", rows: 3, reason: "does not fit" }],
        conflicts: { insert_exists: 1 },
      },
    });
    const installed =
      reading !== undefined && "installed" in reading.database ? reading.database.installed : null;
    // Not the one of a cluster whose name begins likewise.
    expect(installed?.slots).toMatchObject([{ name: slot, active: false, walStatus: "reserved" }]);
    expect(installed?.slots[0]?.lagBytes).toBeGreaterThan(10_000);
    expect(installed?.slots[0]?.retainedBytes).toBeGreaterThan(10_000);
    expect(installed?.progress[0]?.ageSeconds).toBeGreaterThan(6.9);
    expect(installed?.quarantine[0]?.oldestSeconds).toBeGreaterThan(59);
    expect(installed?.syncs.map((sync) => [sync.origin, sync.table])).toContainEqual([2, "public.users"]);

    const lock = await tryAgentLock(db.url, "moldova");
    const [held] = await readRegions(topology, options);
    expect(held?.database).toMatchObject({ installed: { agentActive: true } });
    await lock?.[Symbol.asyncDispose]();
  });

  test("the agent's lock of another database of the server is not taken for its own", async () => {
    await using db = await createDatabase();
    await using other = await createDatabase();
    await other.query(`SELECT pg_advisory_lock(${agentLockKey})`);
    const topology = topologyWith(uniqueName("c"), region("moldova", 1, db.url));
    await installRegion(await db.connect(), { topology, region: topology.regions[0] as Region });
    const [reading] = await readRegions(topology, options);
    expect(reading?.database).toMatchObject({ installed: { agentActive: false } });
    expect(await serverUrl()).toContain("postgres://");
  });

  test("something else at the agent's address is not taken for the agent", async () => {
    await using agent = await startServer(agentStatus({ region: "argentina" }));
    const [reading] = await readRegions(
      topologyWith("c", region("moldova", 1, "postgres://x@127.0.0.1:9/x", agent.url)),
      options,
    );
    expect(reading?.agent).toEqual({
      error: `something else than the agent of moldova answers at ${agent.url}`,
    });
  });
});
