import { describe, expect, test } from "vitest";
import { eventually } from "../support/database.ts";
import { openEntrance, Session, through } from "./fixture.ts";
import { cancelled, masters, rawSession, startup, url, whichMaster } from "./sessions.ts";
import { errorFields, query, RawClient, sslRequest } from "./wire.ts";

describe("refusals", () => {
  test("with no master, a client is told so, also after it asked for TLS", async () => {
    const given = await masters();
    given.set("near", "down");
    given.set("far", "draining");
    await using entrance = await openEntrance(given);
    await expect(Session.open(through(entrance, url))).rejects.toMatchObject({
      code: "57P03",
      hint: /Try again/,
    });
    using raw = new RawClient(entrance.port);
    raw.send(sslRequest);
    expect((await raw.take(1)).toString()).toBe("N");
    // A client that was refused TLS by us must not get a session in clear text, should a master come back just now.
    given.set("near", "up");
    raw.send(startup);
    expect(errorFields((await raw.message())?.body)).toMatchObject({ C: "57P03" });
    expect(await raw.closed()).toHaveLength(0);
    expect(entrance.status.refused).toEqual(new Map([["57P03", 2]]));
  });

  test("one session too many is refused, cancel requests are not, and a place that is free is given again", async () => {
    await using entrance = await openEntrance(await masters(), { maxSessions: 2 });
    const { raw, key } = await rawSession(entrance.port);
    using _ = raw;
    const second = await Session.open(through(entrance, url));
    await expect(Session.open(through(entrance, url))).rejects.toMatchObject({ code: "53300" });
    raw.send(query("SELECT pg_sleep(600)"));
    expect(await cancelled(entrance, { raw, key })).toBe("57014");
    await second[Symbol.asyncDispose]();
    await eventually(async () => {
      await using third = await Session.open(through(entrance, url));
      expect(await whichMaster(third)).toBe("near");
    });
  });

  test("a client that has its connections is refused one more, its cancel requests are not, and then it is hung up on", async () => {
    const places = { connectionsPerAddress: 2, sharedAddresses: [] };
    await using entrance = await openEntrance(await masters(), {}, places);
    const { raw, key } = await rawSession(entrance.port);
    using _ = raw;
    const second = await Session.open(through(entrance, url));
    await expect(Session.open(through(entrance, url))).rejects.toMatchObject({
      code: "53300",
      message: "this address has its 2 connections to the entrance",
    });
    raw.send(query("SELECT pg_sleep(600)"));
    expect(await cancelled(entrance, { raw, key })).toBe("57014");
    const crowd = Array.from({ length: 40 }, () => new RawClient(entrance.port));
    await eventually(() => expect(entrance.status.dropped).toBeGreaterThanOrEqual(8));
    for (const each of crowd) each.socket.destroy();
    await second[Symbol.asyncDispose]();
    await eventually(async () => {
      await using third = await Session.open(through(entrance, url));
      expect(await whichMaster(third)).toBe("near");
    });
  });

  test("garbage is hung up on, and nobody else is disturbed", async () => {
    await using entrance = await openEntrance(await masters());
    await using session = await Session.open(through(entrance, url));
    const garbage = [
      Buffer.from("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
      Buffer.alloc(100_000),
      Buffer.alloc(100_000, 0xff),
      Buffer.from("160301ffffff", "hex"),
      Buffer.from("00000008ffffffff", "hex"),
    ];
    for (const bytes of garbage) {
      using raw = new RawClient(entrance.port);
      raw.send(bytes);
      expect(await raw.closed()).toHaveLength(0);
    }
    // Garbage after a good beginning is the master's to judge.
    const { raw } = await rawSession(entrance.port);
    using _ = raw;
    raw.send(Buffer.from("Q\0\0\0\x01garbage"));
    expect((await raw.until("E")).at(-1)?.type).toBe("E");
    await raw.closed();
    expect(await whichMaster(session)).toBe("near");
    await eventually(() =>
      expect(entrance.status).toMatchObject({ starting: 0, sessions: new Map([["near", 1]]) }),
    );
  });

  test("a client that takes too long to begin is hung up on, at each packet", async () => {
    await using entrance = await openEntrance(await masters(), { startupMs: 100 });
    using silent = new RawClient(entrance.port);
    using slow = new RawClient(entrance.port);
    slow.send(startup.subarray(0, 20));
    using afterwards = new RawClient(entrance.port);
    afterwards.send(sslRequest);
    expect((await afterwards.take(1)).toString()).toBe("N");
    for (const raw of [silent, slow, afterwards]) expect(await raw.closed()).toHaveLength(0);
    await eventually(() => expect(entrance.status.starting).toBe(0));
  });

  test("a crowd of silent clients does not keep one out that begins", async () => {
    await using entrance = await openEntrance(await masters(), { maxStarting: 20 });
    const crowd = Array.from({ length: 60 }, () => new RawClient(entrance.port));
    await eventually(() => expect(entrance.status.dropped).toBe(40));
    await using session = await Session.open(through(entrance, url));
    expect(await whichMaster(session)).toBe("near");
    for (const raw of crowd) raw.socket.destroy();
    await eventually(() => expect(entrance.status.starting).toBe(0));
  });
});
