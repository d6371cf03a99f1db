import { readFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { eventually, serverUrl } from "../support/database.ts";
import { openEntrance, Session, through } from "./fixture.ts";
import {
  cancelled,
  cancelRequest,
  masters,
  passedOn,
  rawSession,
  startup,
  url,
  whichMaster,
} from "./sessions.ts";
import { gssRequest, message, query, RawClient, sslRequest } from "./wire.ts";

describe("a session", () => {
  test("is led to the first of the candidates, and does what it does without an entrance", async () => {
    await using entrance = await openEntrance(await masters());
    await using session = await Session.open(through(entrance, url));
    expect(await whichMaster(session)).toBe("near");
    expect(await session.value("SELECT $1::jsonb", [{ a: [1, "ü"] }])).toEqual({ a: [1, "ü"] });
    await expect(session.client.query("SELECT 1/0")).rejects.toMatchObject({ code: "22012" });
    await session.client.query("BEGIN; CREATE TEMP TABLE t (x int) ON COMMIT DROP; INSERT INTO t VALUES (1)");
    expect(await session.value("SELECT sum(x)::int FROM t")).toBe(1);
    await session.client.query("COMMIT");
    expect(entrance.status).toMatchObject({ starting: 0, sessions: new Map([["near", 1]]) });
  });

  test("is ended on both sides when the client goes", async () => {
    const server = await serverUrl(18);
    await using entrance = await openEntrance(await masters());
    const { raw, key } = await rawSession(entrance.port);
    await using direct = await Session.open(server);
    const count = `SELECT count(*)::int FROM pg_stat_activity WHERE pid = ${key.readUInt32BE(0)}`;
    expect(await direct.value(count)).toBe(1);
    raw.socket.destroy();
    await eventually(async () => expect(await direct.value(count)).toBe(0));
    await eventually(() => expect(entrance.status).toMatchObject({ sessions: new Map(), starting: 0 }));
  });

  test("listens for hours without a byte, and hears a notification", async () => {
    await using entrance = await openEntrance(await masters());
    await using session = await Session.open(through(entrance, url));
    await using direct = await Session.open(await serverUrl(18));
    const heard = new Promise((resolve) => session.client.once("notification", resolve));
    await session.client.query("LISTEN entrance_test");
    await direct.client.query("NOTIFY entrance_test, 'hello'");
    expect(await heard).toMatchObject({ channel: "entrance_test", payload: "hello" });
  });

  test.skipIf(process.platform !== "linux")("is watched by TCP keepalive on both of its lines", async () => {
    const proxied = await masters();
    await using entrance = await openEntrance(proxied);
    await using session = await Session.open(through(entrance, url));
    await session.value("SELECT 1");
    const hex = (port: number): string => port.toString(16).toUpperCase().padStart(4, "0");
    const master = proxied.candidates()[0]?.port ?? 0;
    await eventually(async () => {
      const lines = (await readFile("/proc/net/tcp", "utf8"))
        .split("\n")
        .map((line) => line.trim().split(/\s+/));
      // Established, with a keepalive timer (02): our end of the client's line, and of the master's.
      const ours = lines.filter(
        ([, local, remote, state]) =>
          state === "01" &&
          (local?.endsWith(`:${hex(entrance.port)}`) === true ||
            remote?.endsWith(`:${hex(master)}`) === true),
      );
      const kept = ours.filter((line) => line[5]?.startsWith("02:"));
      expect(kept.some(([, local]) => local?.endsWith(`:${hex(entrance.port)}`))).toBe(true);
      expect(kept.some(([, , remote]) => remote?.endsWith(`:${hex(master)}`))).toBe(true);
    });
  });

  test("begins in clear text after GSSAPI and TLS were asked for and are not there", async () => {
    await using entrance = await openEntrance(await masters());
    using raw = new RawClient(entrance.port);
    raw.send(gssRequest);
    expect((await raw.take(1)).toString()).toBe("N");
    raw.send(sslRequest);
    expect((await raw.take(1)).toString()).toBe("N");
    raw.send(startup);
    await raw.until("Z");
    raw.send(query("SELECT 'one'"));
    expect((await raw.until("Z")).map(({ type }) => type)).toEqual(["T", "D", "C", "Z"]);
  });

  test("takes bytes that came in one piece with the startup packet, or one by one", async () => {
    await using entrance = await openEntrance(await masters());
    using together = new RawClient(entrance.port);
    together.send(Buffer.concat([startup, query("SELECT 1"), query("SELECT 2")]));
    for (let i = 0; i < 3; i += 1) expect((await together.until("Z")).at(-1)?.type).toBe("Z");
    using single = new RawClient(entrance.port);
    for (const byte of startup) {
      single.send(Buffer.of(byte));
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect((await single.until("Z")).at(-1)?.type).toBe("Z");
  });
});

describe("back-pressure", () => {
  const bound = 24 * 1024 * 1024;
  /** Waits until no more bytes pass. */
  const settled = async (bytes: () => number): Promise<number> => {
    let last = -1;
    let same = 0;
    await eventually(
      () => {
        const now = bytes();
        same = now === last ? same + 1 : 0;
        last = now;
        return same >= 10;
      },
      { everyMs: 50 },
    );
    return last;
  };

  test("a client that does not read stops the master, and gets all when it reads", async () => {
    await using entrance = await openEntrance(await masters());
    const { raw } = await rawSession(entrance.port);
    using _ = raw;
    raw.socket.pause();
    raw.send(query("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 100000)) TO STDOUT"));
    expect(await settled(() => entrance.status.bytesToClients)).toBeLessThan(bound);
    let received = 0;
    raw.socket.removeAllListeners("data");
    const all = new Promise<void>((resolve) => {
      raw.socket.on("data", (chunk: Buffer) => {
        received += chunk.length;
        if (received > 100_600_000 - 1) resolve();
      });
    });
    raw.socket.resume();
    await all;
    expect(received).toBeGreaterThan(100_600_000 - 1);
  });

  test("a master that does not read stops the client", async () => {
    await using entrance = await openEntrance(await masters());
    await using lock = await Session.open(await serverUrl(18));
    await lock.client.query("SELECT pg_advisory_lock(4242)");
    const { raw } = await rawSession(entrance.port);
    using _ = raw;
    const sql = `CREATE TEMP TABLE sink (x text);
      CREATE FUNCTION pg_temp.wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_advisory_lock_shared(4242); PERFORM pg_advisory_unlock_shared(4242); RETURN NULL; END $$;
      CREATE TRIGGER wait BEFORE INSERT ON sink FOR EACH ROW WHEN (NEW.x = 'first') EXECUTE FUNCTION pg_temp.wait()`;
    raw.send(query(sql));
    expect((await raw.until("Z")).map(({ type }) => type)).not.toContain("E");
    raw.send(query("COPY sink FROM STDIN"));
    await raw.until("G");
    const row = message("d", `${"x".repeat(99_999)}\n`);
    raw.send(message("d", "first\n"), ...Array.from({ length: 600 }, () => row));
    expect(await settled(() => entrance.status.bytesToMasters)).toBeLessThan(bound);
    await lock.client.query("SELECT pg_advisory_unlock(4242)");
    raw.send(message("c"));
    const done = await raw.until("Z");
    expect(done[0]?.body.toString()).toBe("COPY 600\0");
  });
});

describe("a cancel request", () => {
  test("reaches the master of its session, also when new sessions go elsewhere", async () => {
    const given = await masters();
    await using entrance = await openEntrance(given);
    const { raw, key } = await rawSession(entrance.port);
    using _ = raw;
    await passedOn(entrance, () => raw.send(query("SELECT pg_sleep(600)")));
    given.set("near", "draining");
    expect(await cancelled(entrance, { raw, key })).toBe("57014");
    expect(entrance.status.cancelRequests).toBeGreaterThan(0);
  });

  test("with a wrong key changes nothing", async () => {
    await using entrance = await openEntrance(await masters());
    const { raw, key } = await rawSession(entrance.port);
    using _ = raw;
    raw.send(query("SELECT pg_sleep(0.3)"));
    const wrong = Buffer.from(key);
    wrong.writeUInt8(wrong.readUInt8(7) ^ 1, 7);
    using canceller = new RawClient(entrance.port);
    canceller.send(cancelRequest(wrong));
    await canceller.closed();
    expect((await raw.until("Z")).map(({ type }) => type)).toEqual(["T", "D", "C", "Z"]);
  });
});
