import { execFile, execFileSync } from "node:child_process";
import { connect as connectTls, type TLSSocket } from "node:tls";
import { promisify } from "node:util";
import { eq } from "drizzle-orm";
import { drizzle } from "drizzle-orm/node-postgres";
import { integer, pgTable, text } from "drizzle-orm/pg-core";
import { Pool, type Client, type ClientConfig } from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Entrance } from "../../src/entrance/entrance.ts";
import { eventually } from "../support/database.ts";
import { GivenMasters, openEntrance, Session } from "./fixture.ts";
import { password, startSecured, type SecuredMasters } from "./secured.ts";
import { cancelRequest } from "./sessions.ts";
import { RawClient, sslRequest, startupPacket } from "./wire.ts";

const run = promisify(execFile);

let masters: SecuredMasters;
beforeAll(async () => {
  masters = await startSecured();
});
afterAll(() => masters[Symbol.asyncDispose]());

const anna = (entrance: Entrance, changes: ClientConfig = {}): ClientConfig => ({
  host: "127.0.0.1",
  port: entrance.port,
  user: "anna",
  password,
  database: "postgres",
  // As verify-full: the name is checked against the certificate of the master.
  ssl: { ca: masters.certificate, servername: "localhost", rejectUnauthorized: true },
  enableChannelBinding: true,
  ...changes,
});

const open = (
  changes: Parameters<typeof openEntrance>[1] = {},
): { given: GivenMasters; entrance: Promise<Entrance> } => {
  const given = new GivenMasters(masters.urls);
  return { given, entrance: openEntrance(given, changes) };
};

/** As the driver keeps them. */
const keyOf = (client: Client): Buffer => {
  const { processID, secretKey } = client as unknown as { processID: number; secretKey: number };
  const key = Buffer.alloc(8);
  key.writeUInt32BE(processID);
  key.writeInt32BE(secretKey, 4);
  return key;
};

/** Cancels until it is heard. */
const cancelled = async (query: Promise<unknown>, cancel: () => Promise<void>): Promise<unknown> => {
  let error: unknown = null;
  const ended = query.catch((caught: unknown) => {
    error = caught;
  });
  await eventually(async () => {
    await cancel();
    return error !== null;
  });
  await ended;
  return error;
};

describe("TLS end to end", () => {
  test("the client sees the master's certificate, and SCRAM is bound to it", async () => {
    await using entrance = await open().entrance;
    await using session = await Session.open(anna(entrance));
    expect(await session.value("SHOW cluster_name")).toBe("near");
    expect(await session.value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")).toBe(true);
    const { stream } = (session.client as unknown as { connection: { stream: TLSSocket } }).connection;
    const seen = stream.getPeerX509Certificate()?.toString().replaceAll("\n", "");
    expect(seen).toBe(masters.certificate.replaceAll("\n", ""));
    expect(entrance.status.sessions).toEqual(new Map([["near", 1]]));
  });

  test("a wrong password, another authority, another name, and no TLS are refused, each by who has to", async () => {
    await using entrance = await open().entrance;
    const refused = (changes: ClientConfig): Promise<unknown> =>
      Session.open(anna(entrance, changes)).then(
        () => "let in",
        (error: { code?: string }) => error.code,
      );
    expect(await refused({ password: "wrong" })).toBe("28P01");
    expect(await refused({ ssl: { servername: "localhost" } })).toBe("DEPTH_ZERO_SELF_SIGNED_CERT");
    expect(await refused({ ssl: { ca: masters.certificate, servername: "elsewhere" } })).toBe(
      "ERR_TLS_CERT_ALTNAME_INVALID",
    );
    expect(await refused({ ssl: false })).toBe("28000");
  });

  test("from the first byte on", async () => {
    await using entrance = await open().entrance;
    const socket = connectTls({
      host: "127.0.0.1",
      port: entrance.port,
      servername: "localhost",
      ca: masters.certificate,
      ALPNProtocols: ["postgresql"],
    });
    await new Promise((resolve, reject) => socket.once("secureConnect", resolve).once("error", reject));
    expect(socket.alpnProtocol).toBe("postgresql");
    socket.write(startupPacket({ user: "anna", database: "postgres" }));
    const answer = await new Promise<Buffer>((resolve) => socket.once("data", resolve));
    expect(answer.toString("latin1")).toMatch(/^R.*SCRAM-SHA-256-PLUS/s);
    socket.destroy();
  });

  test("COPY of many megabytes both ways arrives as it was sent", async () => {
    await using entrance = await open().entrance;
    await using session = await Session.open(anna(entrance));
    const { from, to } = await import("pg-copy-streams");
    const { pipeline } = await import("node:stream/promises");
    const { Readable } = await import("node:stream");
    await session.client.query("CREATE TEMP TABLE t (id int, body text)");
    const body = "x".repeat(200);
    const rows = 150_000;
    const chunks = function* (): Generator<string> {
      for (let id = 0; id < rows; id += 100) {
        yield Array.from({ length: 100 }, (_, i) => `${id + i}\t${body}\n`).join("");
      }
    };
    await pipeline(Readable.from(chunks()), session.client.query(from("COPY t FROM STDIN")));
    expect(await session.value("SELECT count(*)::int + sum(length(body))::int FROM t")).toBe(rows * 201);
    let received = 0;
    for await (const chunk of session.client.query(to("COPY t TO STDOUT")))
      received += (chunk as Buffer).length;
    expect(received).toBe([...chunks()].reduce((sum, text) => sum + text.length, 0));
  });
});

describe("a cancel request for an encrypted session", () => {
  test("in clear text reaches the masters that have one from the same address", async () => {
    const { given, entrance: opening } = open();
    await using entrance = await opening;
    await using near = await Session.open(anna(entrance));
    given.set("near", "draining");
    await using far = await Session.open(anna(entrance));
    for (const session of [near, far]) {
      const sleeping = session.client.query("SELECT pg_sleep(600)");
      const error = await cancelled(sleeping, async () => {
        using raw = new RawClient(entrance.port);
        raw.send(cancelRequest(keyOf(session.client)));
        await raw.closed();
      });
      expect(error).toMatchObject({ code: "57014" });
    }
    expect(await near.value("SHOW cluster_name")).toBe("near");
  });

  test("inside TLS reaches the nearest master", async () => {
    await using entrance = await open().entrance;
    await using session = await Session.open(anna(entrance));
    const error = await cancelled(session.client.query("SELECT pg_sleep(600)"), async () => {
      const raw = new RawClient(entrance.port);
      raw.send(sslRequest);
      expect((await raw.take(1)).toString()).toBe("S");
      raw.socket.removeAllListeners("data");
      const secured = connectTls({ socket: raw.socket, servername: "localhost", ca: masters.certificate });
      await new Promise((resolve, reject) => secured.once("secureConnect", resolve).once("error", reject));
      const closed = new Promise((resolve) => secured.once("close", resolve));
      secured.resume().write(cancelRequest(keyOf(session.client)));
      await closed;
    });
    expect(error).toMatchObject({ code: "57014" });
  });
});

describe("a region that is drained", () => {
  test("an encrypted session ends when it has been quiet after an answer, and not while it waits for one", async () => {
    const { given, entrance: opening } = open({ quietMs: 200 });
    await using entrance = await opening;
    await using quiet = await Session.open(anna(entrance));
    await using busy = await Session.open(anna(entrance));
    const before = entrance.status.bytesToMasters;
    const answer = busy.value("SELECT 'done' FROM pg_sleep(1)");
    await eventually(() => entrance.status.bytesToMasters > before);
    given.set("near", "draining");
    expect(await quiet.ended).toMatchObject({ message: /terminated unexpectedly/ });
    expect(await answer).toBe("done");
    await busy.ended;
    await eventually(() => expect(entrance.status.ended).toEqual(new Map([["drained", 2]])));
  });
});

const psqlVersion = ((): string | null => {
  try {
    return execFileSync("psql", ["--version"], { encoding: "utf8" }).trim();
  } catch {
    return null;
  }
})();

describe("failover of a master that is killed", () => {
  const workouts = pgTable("workouts", { id: integer().primaryKey(), title: text() });

  test("an ORM's pool goes on with the next master", async () => {
    const { given, entrance: opening } = open();
    await using entrance = await opening;
    const pool = new Pool({ ...anna(entrance), max: 3 });
    const lost: Error[] = [];
    pool.on("error", (error) => lost.push(error));
    const db = drizzle({ client: pool });
    await db.transaction(async (tx) => {
      await tx.insert(workouts).values([
        { id: 1, title: "squats" },
        { id: 2, title: "rest" },
      ]);
      await tx.update(workouts).set({ title: "bench press" }).where(eq(workouts.id, 2));
    });
    expect(await db.select().from(workouts).orderBy(workouts.id)).toEqual([
      { id: 1, title: "squats" },
      { id: 2, title: "bench press" },
    ]);
    await masters.near.kill();
    try {
      await eventually(() => lost.length > 0);
      expect(given.doubted).toContain("near");
      // The two servers of this test are no cluster: what is written here is read here.
      await db.insert(workouts).values({ id: 3, title: "on the backup" });
      expect(await db.select().from(workouts)).toEqual([{ id: 3, title: "on the backup" }]);
      expect(entrance.status.sessions).toEqual(new Map([["far", 1]]));
    } finally {
      await pool.end();
      await masters.near.start();
    }
  });

  test.skipIf(psqlVersion === null)(
    "psql with verify-full and channel binding: before and after",
    async () => {
      await using entrance = await open().entrance;
      const psql = async (sql: string): Promise<string> => {
        const where =
          `host=localhost hostaddr=127.0.0.1 port=${entrance.port} user=anna dbname=postgres connect_timeout=10 ` +
          `sslmode=verify-full sslrootcert=${masters.certificateFile} channel_binding=require`;
        const env = { ...process.env, PGPASSWORD: password };
        const { stdout } = await run("psql", ["-X", "-At", "-v", "ON_ERROR_STOP=1", "-c", sql, where], {
          env,
        });
        return stdout.trim();
      };
      expect(await psql("SHOW cluster_name")).toBe("near");
      await masters.near.kill();
      try {
        expect(await psql("SHOW cluster_name")).toBe("far");
      } finally {
        await masters.near.start();
      }
      expect(await psql("SHOW cluster_name")).toBe("near");
    },
  );
});
