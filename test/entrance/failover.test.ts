import { createServer } from "node:net";
import { describe, expect, test } from "vitest";
import { startFaultProxy } from "../../src/embedded/fault-proxy.ts";
import { errorResponse } from "../../src/entrance/packets.ts";
import { eventually, serverUrl } from "../support/database.ts";
import { GivenMasters, openEntrance, Session, through } from "./fixture.ts";
import { masters, passedOn, rawSession, unreachable, url, whichMaster } from "./sessions.ts";
import { errorFields, query } from "./wire.ts";

describe("a master that is marked down", () => {
  test("loses its sessions, each with a reason that fits, and clients that come again are led to the next", async () => {
    const given = await masters();
    await using entrance = await openEntrance(given);
    await using idle = await Session.open(through(entrance, url));
    const { raw: busy } = await rawSession(entrance.port);
    using _ = busy;
    await using lock = await Session.open(await serverUrl(18));
    await lock.client.query("SELECT pg_advisory_lock(4243)");
    busy.send(query("SELECT 1"), query("SELECT pg_advisory_lock(4243)"));
    await busy.until("Z");
    given.set("near", "down");
    expect(await idle.ended).toMatchObject({
      code: "57P01",
      message: 'terminating connection: the master of region "near" is down',
    });
    const [error] = await busy.until("E");
    expect(errorFields(error?.body)).toMatchObject({
      S: "FATAL",
      C: "08006",
      D: expect.anything() as string,
    });
    expect(await busy.closed()).toHaveLength(0);
    await using again = await Session.open(through(entrance, url));
    expect(await whichMaster(again)).toBe("far");
    await eventually(() => expect(entrance.status.sessions).toEqual(new Map([["far", 1]])));
    given.set("near", "up");
    await using later = await Session.open(through(entrance, url));
    expect(await whichMaster(later)).toBe("near");
  });

  test("in the middle of a row, nothing is put into the stream", async () => {
    const given = await masters();
    await using entrance = await openEntrance(given);
    const { raw } = await rawSession(entrance.port);
    using _ = raw;
    raw.socket.pause();
    raw.send(query("SELECT repeat('x', 100000000)"));
    await eventually(() => expect(entrance.status.bytesToClients).toBeGreaterThan(1_000_000));
    given.set("near", "down");
    raw.socket.resume();
    const rest = await raw.closed();
    expect(rest.includes("08006")).toBe(false);
    expect(rest.subarray(-1000).toString()).toBe("x".repeat(1000));
  });

  test("is noticed while a session is being opened there", async () => {
    await using hung = await startFaultProxy({
      target: new GivenMasters({ near: await serverUrl(18) }).candidates()[0]!,
      random: () => 0.5,
    });
    hung.cut({ mode: "blackhole" });
    const given = await masters({ near: `postgres://127.0.0.1:${hung.port}/postgres` });
    await using entrance = await openEntrance(given, { attemptMs: 60_000 });
    const opening = Session.open(through(entrance, url));
    await eventually(() => expect(hung.counters.open).toBe(1));
    given.set("near", "down");
    await using session = await opening;
    expect(await whichMaster(session)).toBe("far");
  });
});

describe("a master that fails", () => {
  test("before it has answered, is passed over: refused, hung, or not yet started", async () => {
    const target = new GivenMasters({ near: await serverUrl(18) }).candidates()[0]!;
    await using hung = await startFaultProxy({ target, random: () => 0.5 });
    hung.cut({ mode: "blackhole" });
    const starting = createServer((socket) => {
      socket.once("data", () =>
        socket.end(errorResponse({ code: "57P03", message: "the database system is starting up" })),
      );
    });
    await new Promise<void>((resolve) => starting.listen(0, "127.0.0.1", resolve));
    const startingPort = (starting.address() as { port: number }).port;
    const far = await serverUrl(17);
    const given = new GivenMasters({
      refused: unreachable,
      hung: `postgres://127.0.0.1:${hung.port}/postgres`,
      starting: `postgres://127.0.0.1:${startingPort}/postgres`,
      far,
    });
    await using entrance = await openEntrance(given, { attemptMs: 100 });
    await using session = await Session.open(through(entrance, url));
    expect(await whichMaster(session)).toBe("far");

    // With none behind it, its own reason is the answer.
    given.set("far", "down");
    given.set("hung", "down");
    await expect(Session.open(through(entrance, url))).rejects.toMatchObject({
      code: "57P03",
      message: /starting up/,
    });
    await new Promise((resolve) => starting.close(resolve));
    given.set("starting", "down");
    await expect(Session.open(through(entrance, url))).rejects.toMatchObject({
      code: "08006",
      detail: expect.stringMatching(/^refused: .*ECONNREFUSED/) as string,
      hint: expect.anything() as string,
    });
  });

  test("the last one is waited for, since there is no other", async () => {
    const target = new GivenMasters({ near: await serverUrl(18) }).candidates()[0]!;
    await using slow = await startFaultProxy({ target, random: () => 0.5 });
    slow.cut({ mode: "blackhole" });
    await using hung = await startFaultProxy({ target, random: () => 0.5 });
    hung.cut({ mode: "blackhole" });
    await using entrance = await openEntrance(
      new GivenMasters({
        hung: `postgres://127.0.0.1:${hung.port}/x`,
        near: `postgres://127.0.0.1:${slow.port}/x`,
      }),
      { attemptMs: 200 },
    );
    const opening = Session.open(through(entrance, url));
    await eventually(() => slow.counters.accepted === 1);
    // Whoever comes now is given up by the first master after an attempt's time: as long the other has waited then.
    const later = Session.open(through(entrance, url));
    await eventually(() => slow.counters.accepted === 2);
    slow.heal();
    await using session = await opening;
    await using second = await later;
    expect([await whichMaster(session), await whichMaster(second)]).toEqual(["near", "near"]);
  });

  test("in the middle of a session, tells an idle client why", async () => {
    const target = new GivenMasters({ near: await serverUrl(18) }).candidates()[0]!;
    await using proxy = await startFaultProxy({ target, random: () => 0.5 });
    const given = await masters({ near: `postgres://127.0.0.1:${proxy.port}/postgres` });
    await using entrance = await openEntrance(given);
    await using session = await Session.open(through(entrance, url));
    proxy.cut({ mode: "reset" });
    expect(await session.ended).toMatchObject({
      code: "57P01",
      message: /connection to the master of region "near" is lost/,
    });
    await using again = await Session.open(through(entrance, url));
    expect(await whichMaster(again)).toBe("far");
    expect(entrance.status.ended).toEqual(new Map([["master", 1]]));
  });

  test("a session that the master itself ends gets the master's words and no others", async () => {
    await using entrance = await openEntrance(await masters());
    const { raw, key } = await rawSession(entrance.port);
    using _ = raw;
    await using direct = await Session.open(await serverUrl(18));
    await direct.client.query("SELECT pg_terminate_backend($1)", [key.readUInt32BE(0)]);
    const answers = await raw.until("never");
    expect(answers.map(({ type }) => type)).toEqual(["E"]);
    expect(errorFields(answers[0]?.body)).toMatchObject({ C: "57P01", M: /administrator command/ });
  });
});

describe("a region that is drained", () => {
  test("gets no new sessions, and those that it has end when they have nothing to do", async () => {
    const given = await masters();
    await using entrance = await openEntrance(given);
    await using idle = await Session.open(through(entrance, url));
    await using open = await Session.open(through(entrance, url));
    await open.client.query("BEGIN");
    const { raw: busy } = await rawSession(entrance.port);
    using _ = busy;
    await passedOn(entrance, () => busy.send(query("SELECT pg_sleep(0.5)")));
    given.set("near", "draining");
    expect(await idle.ended).toMatchObject({ code: "57P01", message: /taken out of service/ });
    await using elsewhere = await Session.open(through(entrance, url));
    expect(await whichMaster(elsewhere)).toBe("far");
    // The answer comes whole before the end.
    expect((await busy.until("never")).map(({ type }) => type)).toEqual(["T", "D", "C", "Z", "E"]);
    expect(await whichMaster(open)).toBe("near");
    await open.client.query("COMMIT");
    expect(await open.ended).toMatchObject({ code: "57P01" });
    given.set("near", "up");
    await using back = await Session.open(through(entrance, url));
    expect(await whichMaster(back)).toBe("near");
    expect(await whichMaster(elsewhere)).toBe("far");
  });
});

describe("closing", () => {
  test("lets what is under way end, within its bound, and takes nobody", async () => {
    const given = await masters();
    const entrance = await openEntrance(given);
    const { raw: busy } = await rawSession(entrance.port);
    using _ = busy;
    await using idle = await Session.open(through(entrance, url));
    await using endless = await Session.open(through(entrance, url));
    await passedOn(entrance, () => busy.send(query("SELECT pg_sleep(0.3)")));
    let failing: Promise<unknown> = Promise.resolve();
    await passedOn(entrance, () => {
      failing = endless.client.query("SELECT pg_sleep(600)").catch((error: unknown) => error);
    });
    const closing = entrance.close({ graceMs: 1_000 });
    expect(await idle.ended).toMatchObject({ code: "57P01", message: /being stopped/ });
    await expect(Session.open(through(entrance, url))).rejects.toMatchObject({ code: "ECONNREFUSED" });
    expect((await busy.until("never")).map(({ type }) => type)).toEqual(["T", "D", "C", "Z", "E"]);
    expect(await failing).toMatchObject({ code: "08006" });
    await closing;
    expect(given.watchers).toBe(0);
  });
});
