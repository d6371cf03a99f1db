import { mkdtemp, rm, chmod } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { type Server, startServer } from "../../src/embedded/server.ts";
import { eventually } from "../support/database.ts";
import { GivenMasters, openEntrance, Session, through } from "./fixture.ts";
import { passedOn, startup } from "./sessions.ts";
import { query, RawClient } from "./wire.ts";

/** With a server of its own, which listens on a Unix socket in its data folder too. */
const withServer = async (work: (server: Server, sockets: string) => Promise<void>): Promise<void> => {
  const folder = await mkdtemp(join(tmpdir(), "coregent-crowd-"));
  await chmod(folder, 0o755);
  const dataDir = join(folder, "data");
  const settings = {
    unix_socket_directories: dataDir,
    max_connections: "1050",
    shared_buffers: "16MB",
    max_wal_senders: "0",
    wal_level: "minimal",
  };
  const server = await startServer({ dataDir, fsync: false, settings, removeWithUs: true });
  try {
    await work(server, dataDir);
  } finally {
    await server.stop("immediate");
    await rm(folder, { recursive: true, force: true });
  }
};

test("a thousand sessions that sleep cost little, answer when asked, and end with their master", () =>
  withServer(async (server) => {
    const given = new GivenMasters({ near: server.url() });
    await using entrance = await openEntrance(given);
    const before = process.memoryUsage();
    const crowd: RawClient[] = [];
    for (let i = 0; i < 1_000; i += 50) {
      const more = Array.from({ length: 50 }, () => new RawClient(entrance.port));
      for (const raw of more) raw.send(startup);
      for (const raw of more) expect((await raw.until("Z")).at(-1)?.type).toBe("Z");
      crowd.push(...more);
    }
    expect(entrance.status.sessions).toEqual(new Map([["near", 1_000]]));
    // Of both ends of each line, which are all in this process.
    const { heapUsed, external } = process.memoryUsage();
    expect(heapUsed + external - before.heapUsed - before.external).toBeLessThan(200 * 1024 * 1024);
    await using session = await Session.open(through(entrance, server.url()));
    expect(await session.value("SELECT 1")).toBe(1);
    await passedOn(entrance, () => crowd[500]?.send(query("SELECT 'five hundred'")));
    expect((await crowd[500]?.until("Z"))?.map(({ type }) => type)).toEqual(["T", "D", "C", "Z"]);
    given.set("near", "down");
    for (const raw of crowd) expect((await raw.until("never")).map(({ type }) => type)).toEqual(["E"]);
    await eventually(() => expect(entrance.status.sessions.size).toBe(0));
  }));

test("a master on the same machine is reached by its socket", () =>
  withServer(async (server, sockets) => {
    const url = new URL(server.url());
    const given = new GivenMasters({ near: `postgres:///postgres?host=${sockets}&port=${url.port}` });
    await using entrance = await openEntrance(given);
    await using session = await Session.open(through(entrance, server.url()));
    expect(await session.value("SELECT inet_client_addr() IS NULL")).toBe(true);
  }));
