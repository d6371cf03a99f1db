import { mkdtemp, rm, chmod } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { startServer } from "../../src/embedded/server.ts";
import { eventually } from "../support/database.ts";
import { GivenMasters, openEntrance, Session, through } from "./fixture.ts";
import { passedOn, startup } from "./sessions.ts";
import { query, RawClient } from "./wire.ts";

test("a thousand sessions that sleep cost little, answer when asked, and end with their master", async () => {
  const folder = await mkdtemp(join(tmpdir(), "coregent-crowd-"));
  await chmod(folder, 0o755);
  const settings = {
    max_connections: "1050",
    shared_buffers: "16MB",
    max_wal_senders: "0",
    wal_level: "minimal",
  };
  const server = await startServer({
    dataDir: join(folder, "data"),
    fsync: false,
    settings,
    removeWithUs: true,
  });
  try {
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
  } finally {
    await server.stop("immediate");
    await rm(folder, { recursive: true, force: true });
  }
});
