import { describe, expect, test } from "vitest";
import type { Batch } from "../../src/replication/batch.ts";
import type { InboxLimits } from "../../src/replication/inbox.ts";
import { contents, row, soon, Source } from "./inbox-source.ts";

describe("the inbox", () => {
  test("hands out what there is: one transaction at first, then those which came meanwhile", async () => {
    const source = new Source();
    const first = source.take(soon());
    const one = source.transaction(row("a", 1n), row("b", 2n));
    expect(await first).toMatchObject({ transactions: 1, states: 2, endLsn: one, endsTransaction: true });
    source.transaction(row("a", 3n));
    const three = source.transaction(row("c", 4n));
    const batch = await source.take(soon());
    expect(batch).toMatchObject({ transactions: 2, changes: 2, endLsn: three });
    expect(batch.commitTime).toBe(1_700_000_000_000_000n + three - 100n);
    expect(contents(batch)).toEqual(["row a 0/3 a@3", "row c 0/4 c@4"]);
  });

  test("hands out whole transactions alone, and keeps the open one", async () => {
    const source = new Source();
    const one = source.transaction(row("a", 1n));
    source.begin();
    source.change(row("b", 2n));
    const batch = await source.take(soon());
    expect(batch).toMatchObject({ transactions: 1, endLsn: one });
    expect(contents(batch)).toEqual(["row a 0/1 a@1"]);
    const next = source.take(soon());
    source.change(row("c", 3n));
    source.commit();
    expect(contents(await next)).toEqual(["row b 0/2 b@2", "row c 0/3 c@3"]);
  });

  test("hands a huge transaction out in pieces, after those before it", async () => {
    const source = new Source({ maxBatchRows: 3 });
    const before = source.transaction(row("a", 1n));
    source.begin();
    for (let i = 0n; i < 7n; i++) {
      source.change(row(`k${i}`, 10n + i));
    }
    const end = source.commit();
    const batches = [await source.take(soon()), await source.take(soon()), await source.take(soon())];
    batches.push(await source.take(soon()));
    expect(
      batches.map(({ changes, endsTransaction, transactions }) => ({
        changes,
        endsTransaction,
        transactions,
      })),
    ).toEqual([
      { changes: 1, endsTransaction: true, transactions: 1 },
      { changes: 3, endsTransaction: false, transactions: 0 },
      { changes: 3, endsTransaction: false, transactions: 0 },
      { changes: 1, endsTransaction: true, transactions: 1 },
    ]);
    expect([batches[0]!.endLsn, batches[3]!.endLsn]).toEqual([before, end]);
  });

  test("a row larger than a batch is a piece of its own", async () => {
    const source = new Source({ maxBatchBytes: 1000 });
    source.transaction(row("a", 1n, { big: "x".repeat(5000) }), row("b", 2n));
    expect(await source.take(soon())).toMatchObject({ states: 1, endsTransaction: false });
    expect(await source.take(soon())).toMatchObject({ states: 1, endsTransaction: true });
  });

  test("pauses the source when it holds too much, and lets it go on when that was taken", async () => {
    const source = new Source({ maxBatchBytes: 2_000, maxBufferedBytes: 4_000 });
    let sent = 0n;
    while (!source.flow.paused && sent < 100n) {
      sent += 1n;
      source.transaction(row(`k${sent}`, sent, { big: "x".repeat(500) }));
    }
    expect(source.flow.paused).toBe(true);
    expect(source.inbox.bufferedBytes).toBeLessThan(6_000);
    let taken = 0;
    while (source.flow.paused) {
      taken += (await source.take(soon())).states;
    }
    expect(taken).toBeGreaterThan(0);
    expect(source.inbox.bufferedBytes).toBeLessThan(4_000);
  });

  test("what changes the same keys again and again grows no batch, whole transactions or one that is huge", async () => {
    for (const perTransaction of [4, 4_000]) {
      const source = new Source({ maxBatchRows: 500 });
      let version = 0n;
      for (let sent = 0; sent < 4_000; sent += perTransaction) {
        source.begin();
        for (let i = 0; i < perTransaction; i++) {
          version += 1n;
          source.change(row(`k${version % 100n}`, version, { prev: version > 100n ? version - 100n : 0n }));
        }
        source.commit();
      }
      const batch = await source.take(soon());
      expect(batch).toMatchObject({ changes: 4_000, states: 100, transactions: 4_000 / perTransaction });
      expect(contents(batch).sort()[0]).toBe("row k0 0/4000 k0@4000");
    }
  });

  describe("in a backlog", () => {
    /** What was handed out so far of what is taken one after the other, and how. */
    const taker = (source: Source): Batch[] => {
      const batches: Batch[] = [];
      const take = async (): Promise<void> => {
        for (;;) batches.push(await source.take(soon(5_000)));
      };
      take().catch(() => undefined);
      return batches;
    };

    /** A source far behind, and what is taken of it. */
    const farBehind = (limits: Partial<InboxLimits> = {}): { source: Source; batches: Batch[] } => {
      const source = new Source(limits);
      source.inbox.catchUp(10_000n);
      return { source, batches: taker(source) };
    };

    const statesOf = (batches: readonly Batch[]): number[] => batches.map(({ states }) => states);

    test("waits until a batch is worth it, or for a moment; nothing is awaited with a wait of its own", async () => {
      const { source, batches } = farBehind({ maxBatchRows: 20 });
      source.transaction(row("a", 1n), row("b", 2n));
      source.transaction(row("c", 3n), row("d", 4n));
      await source.time.goOn(5);
      expect(batches).toEqual([]);
      expect(source.inbox.awaited).toBe(false);
      source.transaction(row("e", 5n));
      await source.time.goOn(1);
      expect(statesOf(batches)).toEqual([5]);
      // Nothing comes for long, then little.
      await source.time.goOn(100);
      source.transaction(row("f", 6n));
      await source.time.goOn(30);
      expect(statesOf(batches)).toEqual([5, 1]);
    });

    test("hands out what there is when its end has come, or the stream's", async () => {
      const source = new Source();
      source.inbox.catchUp(300n);
      const batches = taker(source);
      source.transaction(row("a", 1n));
      source.transaction(row("b", 2n));
      await source.time.goOn(1);
      expect(batches).toEqual([]);
      source.transaction(row("c", 3n));
      await source.time.goOn(1);
      expect(statesOf(batches)).toEqual([3]);
      expect(source.inbox.awaited).toBe(true);
      source.inbox.catchUp(10_000n);
      source.transaction(row("d", 4n));
      source.inbox.fail(new Error("gone"));
      await source.time.goOn(1);
      expect(statesOf(batches)).toEqual([3, 1]);
    });

    test("a keepalive is not handed out before what came before it", async () => {
      const { source, batches } = farBehind();
      const one = source.transaction(row("a", 1n));
      source.inbox.keepalive(one + 50n, 7n);
      await source.time.goOn(1);
      expect(batches.map(({ states, endLsn }) => ({ states, endLsn }))).toEqual([
        { states: 1, endLsn: one },
        { states: 0, endLsn: one + 50n },
      ]);
    });
  });

  test("memory that was given back is used again, and not before", async () => {
    const distinct = async (releases: boolean): Promise<number> => {
      const source = new Source({ maxBatchBytes: 150_000, maxBufferedBytes: 600_000 });
      const used = new Set<unknown>();
      for (let round = 0; round < 8; round++) {
        for (let i = 0; i < 120; i++) {
          source.transaction(row(`k${i}`, BigInt(1000 * round + i + 1), { big: "x".repeat(1_500) }));
        }
        const batch = await source.take(soon());
        used.add(batch.tables[0]!.rows.field(0, "big")!.buffer);
        if (releases) batch.release();
      }
      return used.size;
    };
    expect(await distinct(false)).toBe(8);
    expect(await distinct(true)).toBeLessThan(5);
  });

  test("hurries the source only when the taker has to wait", async () => {
    const source = new Source();
    source.transaction(row("a", 1n));
    await source.take(soon());
    expect([source.inbox.awaited, source.flow.hurried]).toEqual([false, 0]);
    const taken = source.take(soon());
    expect([source.inbox.awaited, source.flow.hurried]).toEqual([true, 1]);
    source.transaction(row("b", 2n));
    expect(source.inbox.awaited).toBe(false);
    await taken;
  });

  test("a keepalive is handed out when nothing is outstanding, and not before what came before it", async () => {
    const source = new Source();
    source.inbox.keepalive(50n, 7n);
    expect(await source.take(soon())).toMatchObject({
      endLsn: 50n,
      commitTime: 7n,
      states: 0,
      endsTransaction: true,
    });
    source.transaction(row("a", 1n));
    source.inbox.keepalive(150n, 8n);
    expect(await source.take(soon())).toMatchObject({ endLsn: 100n, states: 1 });
    expect(await source.take(soon())).toMatchObject({ endLsn: 150n, states: 0 });
  });

  test("a keepalive that says nothing new is not handed out", async () => {
    const source = new Source();
    source.transaction(row("a", 1n));
    await source.take(soon());
    const none = source.inbox.take(10, soon());
    for (const lsn of [90n, 100n]) source.inbox.keepalive(lsn, 7n);
    await source.time.goOn(10);
    expect(await none).toBeNull();
    source.inbox.keepalive(150n, 7n);
    expect(await source.take(soon())).toMatchObject({ endLsn: 150n });
    const again = source.inbox.take(10, soon());
    source.inbox.keepalive(150n, 8n);
    await source.time.goOn(10);
    expect(await again).toBeNull();
  });

  test("a keepalive in the middle of a transaction says nothing", async () => {
    const source = new Source();
    source.begin();
    source.change(row("a", 1n));
    source.inbox.keepalive(5_000n, 7n);
    source.commit();
    expect(await source.take(soon())).toMatchObject({ endLsn: 100n });
    await expect(source.take(soon(20))).rejects.toMatchObject({ name: "TimeoutError" });
  });

  test("what was received whole is still handed out after the stream has failed, then its error", async () => {
    const source = new Source();
    source.transaction(row("a", 1n));
    source.inbox.fail(new Error("lost"));
    expect(await source.take(soon())).toMatchObject({ states: 1 });
    await expect(source.take(soon())).rejects.toThrow("lost");
  });

  test("a taker that gives up loses nothing", async () => {
    const source = new Source();
    const stop = new AbortController();
    const given = source.take(stop.signal);
    stop.abort(new Error("enough"));
    source.transaction(row("a", 1n));
    await expect(given).rejects.toThrow("enough");
    expect(await source.take(soon())).toMatchObject({ states: 1 });
  });

  test("nor does one that gives up while its time runs, which is over then", async () => {
    const source = new Source();
    const stop = new AbortController();
    const given = source.inbox.take(10, stop.signal);
    stop.abort(new Error("enough"));
    await expect(given).rejects.toThrow("enough");
    const next = source.inbox.take(20, soon());
    await source.time.goOn(15);
    expect(source.inbox.awaited).toBe(true);
    source.transaction(row("a", 1n));
    expect(await next).toMatchObject({ states: 1 });
  });

  test("nor does one that waits for so long and no longer; the time of the one before does not count for the next", async () => {
    const source = new Source();
    const short = source.inbox.take(10, soon());
    await source.time.goOn(9);
    source.transaction(row("a", 1n));
    expect(await short).toMatchObject({ states: 1 });
    const none = source.inbox.take(10, soon());
    await source.time.goOn(9);
    expect(source.inbox.awaited).toBe(true);
    await source.time.goOn(1);
    expect(await none).toBeNull();
    source.transaction(row("b", 2n));
    expect(await source.inbox.take(10, soon())).toMatchObject({ states: 1 });
  });
});
