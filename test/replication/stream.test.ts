import { once } from "node:events";
import { createServer, Socket, type Server } from "node:net";
import { describe, expect, test } from "vitest";
import { systemClock } from "../../src/clock.ts";
import { reactionTo } from "../../src/postgres/sqlstate.ts";
import { formatLsn, parseLsn } from "../../src/replication/lsn.ts";
import { dropSlot, ensureSlot, evictHolder, inspectSlot, SlotHeld } from "../../src/replication/slot.ts";
import { judgeSilence, statusIntervalMs } from "../../src/replication/stream-rules.ts";
import { createDatabase, eventually, type TestDatabase } from "../support/database.ts";
import { addTable, prepare } from "./fixture.ts";
import { Reader } from "./harness.ts";

const withTable = async (): Promise<TestDatabase> => {
  const db = await createDatabase();
  await prepare(db);
  await addTable(db, { name: "t", key: ["id"], definition: "id int, v text" });
  return db;
};

let next = 0;
const insert = async (db: TestDatabase, count = 1, text = "x"): Promise<void> => {
  next += 1;
  await db.query(
    `INSERT INTO t SELECT $1::int * 10000000 + i, $2, (i << 10) + 1 FROM generate_series(1, $3::int) AS i`,
    [next, text, count],
  );
};

/** A TCP proxy that can stop passing bytes without closing anything. */
class Proxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets: Socket[] = [];
  frozen = false;

  constructor(target: URL) {
    this.#server = createServer((client) => {
      const upstream = new Socket().connect(Number(target.port), target.hostname);
      for (const [from, to] of [
        [client, upstream],
        [upstream, client],
      ] as const) {
        this.#sockets.push(from);
        from.on("data", (bytes) => this.frozen || to.write(bytes));
        from.on("error", () => undefined);
        from.on("close", () => this.frozen || to.destroy());
      }
    });
  }

  async url(of: string): Promise<string> {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    const url = new URL(of);
    url.hostname = "127.0.0.1";
    url.port = String((this.#server.address() as { port: number }).port);
    return url.href;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#sockets.forEach((socket) => socket.destroy());
    this.#server.close();
    await once(this.#server, "close");
  }
}

const slotOf = async (
  db: TestDatabase,
  name: string,
): Promise<NonNullable<Awaited<ReturnType<typeof inspectSlot>>>> => {
  const slot = await inspectSlot(await db.connect(), name);
  expect(slot).not.toBeNull();
  return slot!;
};

const ids = async (reader: Reader, transactions: number): Promise<number[]> => {
  const found: number[] = [];
  for (let seen = 0; seen < transactions;) {
    const batch = await reader.changes();
    seen += batch.transactions;
    for (const { rows } of batch.tables) {
      found.push(...Array.from({ length: rows.count }, (_, i) => rows.field(i, "id")!.readInt32BE()));
    }
  }
  return found;
};

describe("acknowledging", () => {
  test("of two commits side by side in the WAL, the first confirmed, the second comes again (FAULTS 3)", async () => {
    await using db = await withTable();
    const slow = await db.connect();
    let slot = "";
    {
      await using reader = await Reader.open(db);
      ({ slot } = reader);
      await slow.query("BEGIN; INSERT INTO t VALUES (2, 'slow', 1025)");
      await db.query("INSERT INTO t VALUES (1, 'quick', 1025)");
      const { endLsn } = await reader.changes();
      await slow.query("COMMIT");
      expect(await ids(reader, 1)).toEqual([2]);
      reader.confirmed = endLsn;
      reader.stream.sendStatus();
      await eventually(async () => expect((await slotOf(db, slot)).confirmedLsn).toBe(endLsn));
    }
    await using again = await Reader.open(db, { slot });
    expect(await ids(again, 1)).toEqual([2]);
  });

  test("what was received is not confirmed by itself, and comes again", async () => {
    await using db = await withTable();
    const ends: bigint[] = [];
    let slot = "";
    for (let attempt = 0; attempt < 2; attempt++) {
      await using reader = await Reader.open(db, slot === "" ? {} : { slot }, async () => {
        if (slot === "") {
          await insert(db);
        }
      });
      ({ slot } = reader);
      const batch = await reader.changes();
      expect(batch).toMatchObject({ transactions: 1, states: 1 });
      ends.push(batch.endLsn);
      reader.stream.sendStatus(true);
      await eventually(() => reader.keepalives.length > 0);
    }
    expect(ends[0]).toBe(ends[1]);
  });

  test("goes on in the middle of a long transaction that nobody takes, and memory stays bounded (FAULTS 24)", async () => {
    await using db = await withTable();
    await db.query(`ALTER DATABASE ${db.name} SET wal_sender_timeout = '1s'`);
    await using reader = await Reader.open(db, {
      limits: { maxBatchRows: 1000, maxBatchBytes: 1 << 20, maxBufferedBytes: 2 << 20 },
    });
    await insert(db, 100_000, "x".repeat(200));
    await eventually(() => reader.pauses > 0);
    const held = reader.inbox.bufferedBytes;
    const pid = (await slotOf(db, reader.slot)).activePid;
    // Twice the timeout: a walsender that hears nothing is gone by then.
    const replies = new Set<string>();
    const deadline = performance.now() + 2_200;
    await eventually(async () => {
      const [row] = await db.query<{ at: string }>(
        "SELECT reply_time::text AS at FROM pg_stat_replication WHERE pid = $1",
        [pid],
      );
      replies.add(String(row?.at));
      return performance.now() > deadline;
    });
    expect(replies.size).toBeGreaterThan(4);
    expect(reader.inbox.bufferedBytes).toBe(held);
    expect(held).toBeLessThan(4 << 20);
    let rows = 0;
    let pieces = 0;
    for (let ended = false; !ended; pieces++) {
      const batch = await reader.take();
      rows += batch.states;
      ended = batch.endsTransaction && batch.transactions > 0;
    }
    expect(rows).toBe(100_000);
    expect(pieces).toBeGreaterThanOrEqual(100);
    expect(reader.errors).toEqual([]);
  });

  test("keepalives tell the position and the clock of a source that writes nothing of ours", async () => {
    await using db = await withTable();
    await using reader = await Reader.open(db);
    await db.query("CREATE TABLE other AS SELECT 1 AS a");
    const [row] = await db.query<{ lsn: string }>("SELECT pg_current_wal_insert_lsn()::text AS lsn");
    await db.query("SELECT pg_switch_wal()");
    await eventually(async () => {
      const batch = await reader.take();
      expect(batch.states).toBe(0);
      expect(batch.endLsn).toBeGreaterThanOrEqual(parseLsn(row!.lsn));
    });
    const skewMs = Math.abs(Number(reader.keepalives.at(-1)!.time / 1000n) - Date.now());
    expect(skewMs).toBeLessThan(10_000);
  });
});

describe("a stream ends once, with an error of a class", () => {
  test("when the source ends its walsender: retry", async () => {
    await using db = await withTable();
    await using reader = await Reader.open(db);
    await db.query("SELECT pg_terminate_backend($1)", [(await slotOf(db, reader.slot)).activePid]);
    await eventually(() => reader.errors.length > 0);
    await expect(reader.changes()).rejects.toBe(reader.errors[0]);
    expect(reader.errors.map((error) => reactionTo(error, "stream"))).toEqual(["retry"]);
    expect(reader.stream.ended.aborted).toBe(true);
  });

  test("when the slot is gone: resync", async () => {
    await using db = await withTable();
    const lost = Reader.open(db, { slot: "never_made", stream: { slot: "not_there_at_all" } });
    await expect(lost).rejects.toSatisfy((error) => reactionTo(error, "stream") === "resync");
  });

  test("when another holds the slot: retry, and the holder can be evicted", async () => {
    await using db = await withTable();
    const admin = await db.connect();
    await using holder = await Reader.open(db);
    const refused = Reader.open(db, { slot: holder.slot });
    await expect(refused).rejects.toSatisfy((error) => reactionTo(error, "stream") === "retry");
    await evictHolder(admin, holder.slot, systemClock());
    await eventually(() => holder.errors.length === 1);
    await using heir = await Reader.open(db, { slot: holder.slot });
    await insert(db);
    expect(await heir.changes()).toMatchObject({ states: 1 });
  });

  test("when a message cannot be decoded", async () => {
    await using db = await withTable();
    let calls = 0;
    await using reader = await Reader.open(db);
    reader.inbox.begin = () => {
      calls += 1;
      throw new Error("unreadable");
    };
    await insert(db);
    await insert(db);
    await eventually(() => reader.errors.length > 0);
    expect(reader.errors.map(String)).toEqual(["Error: unreadable"]);
    expect(calls).toBe(1);
  });

  test("when it is aborted, or closed", async () => {
    await using db = await withTable();
    const reader = await Reader.open(db);
    await reader[Symbol.asyncDispose]();
    expect(reader.errors.map(String)).toEqual(["Error: the stream was closed"]);
    await eventually(async () => expect((await slotOf(db, reader.slot)).activePid).toBeNull());
  });

  test("when the server accepts and then says nothing", async () => {
    await using db = await withTable();
    const silent = createServer(() => undefined).listen(0, "127.0.0.1");
    await once(silent, "listening");
    const url = new URL(db.url);
    url.port = String((silent.address() as { port: number }).port);
    const began = performance.now();
    const opened = Reader.open(db, { stream: { url: url.href, connectTimeoutMs: 300 } });
    await expect(opened).rejects.toSatisfy((error) => reactionTo(error, "stream") === "retry");
    expect(performance.now() - began).toBeLessThan(5_000);
    silent.close();
  });

  test("when the line is dead without having been closed (FAULTS 23)", async () => {
    await using db = await withTable();
    await using proxy = new Proxy(new URL(db.url));
    const url = await proxy.url(db.url);
    await using reader = await Reader.open(db, { stream: { url, silenceTimeoutMs: 400 } });
    await insert(db);
    await reader.changes();
    // Longer than the timeout, and nothing to say: it answers when it is asked.
    const quiet = performance.now() + 1_000;
    await eventually(() => performance.now() > quiet);
    expect(reader.errors).toEqual([]);
    proxy.frozen = true;
    await eventually(() => reader.errors.length > 0, { timeoutMs: 30_000 });
    expect(reactionTo(reader.errors[0], "stream")).toBe("retry");
    expect(String(reader.errors[0])).toContain("its walsender is waiting");
    await evictHolder(await db.connect(), reader.slot, systemClock());
  });

  test("but not when its walsender is silent because it is busy", async () => {
    await using db = await withTable();
    await using proxy = new Proxy(new URL(db.url));
    const url = await proxy.url(db.url);
    let probes = 0;
    await using reader = await Reader.open(db, {
      stream: { url, silenceTimeoutMs: 200, inspectWalsender: async () => (++probes, "busy") },
    });
    proxy.frozen = true;
    await eventually(() => probes > 3);
    expect(reader.errors).toEqual([]);
    await evictHolder(await db.connect(), reader.slot, systemClock());
  });

  test("and leaves no timer, listener or socket behind", async () => {
    await using db = await withTable();
    const count = (): number =>
      process.getActiveResourcesInfo().filter((kind) => /TCP|Timeout/.test(kind)).length;
    await db.query("SELECT 1");
    const before = count();
    for (let i = 0; i < 3; i++) {
      await using reader = await Reader.open(db, {
        slot: "again",
        stream: { connectTimeoutMs: 60_000, silenceTimeoutMs: 60_000 },
      });
      await insert(db);
      await reader.changes();
    }
    await eventually(() => expect(count()).toBeLessThanOrEqual(before + 1));
  });
});

describe("slots", () => {
  test("are made once, inspected, and dropped from under a reader", async () => {
    await using db = await withTable();
    const client = await db.connect();
    expect(await inspectSlot(client, "s1")).toBeNull();
    const made = await ensureSlot(client, "s1");
    expect(made).toMatchObject({ created: true, lost: null, activePid: null });
    expect(await ensureSlot(client, "s1")).toMatchObject({ created: false, confirmedLsn: made.confirmedLsn });
    await using reader = await Reader.open(db, { slot: "s1" });
    await dropSlot(client, "s1", systemClock());
    await eventually(() => reader.errors.length === 1);
    expect(await inspectSlot(client, "s1")).toBeNull();
    await dropSlot(client, "s1", systemClock());
  });

  test("a holder that does not go is reported as held", () => {
    expect(reactionTo(new SlotHeld("s", 7), "stream")).toBe("retry");
  });
});

test("the status is sent well within the source's timeout", () => {
  expect([60_000, 9_000, 0].map(statusIntervalMs)).toEqual([10_000, 3_000, 10_000]);
});

test("silence is asked about first, then looked into", () => {
  expect([0, 1, 3, 4, 9].map(judgeSilence)).toEqual(["wait", "ping", "ping", "probe", "probe"]);
});

test("WAL positions are read and written as PostgreSQL does", () => {
  for (const text of ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF", "0/1"]) {
    expect(formatLsn(parseLsn(text))).toBe(text);
  }
  expect(parseLsn("1/0")).toBe(1n << 32n);
  expect(() => parseLsn("1/0/0")).toThrow();
});
