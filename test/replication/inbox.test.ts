import { Buffer } from "node:buffer";
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Batch } from "../../src/replication/batch.ts";
import { Decoder } from "../../src/replication/decode.ts";
import { Inbox, type InboxLimits } from "../../src/replication/inbox.ts";
import type { StateSet } from "../../src/replication/states.ts";
import { begin, commit, describeTable, insert, int64, sampleTable, update } from "./pgoutput.ts";

const table = sampleTable();
const wide: InboxLimits = { maxBatchRows: 1000, maxBatchBytes: 1 << 20, maxBufferedBytes: 4 << 20 };

/** A source's stream into an inbox. */
class Source {
  readonly flow = {
    paused: false,
    hurried: 0,
    pause: () => void (this.flow.paused = true),
    hurry: () => void (this.flow.hurried += 1),
    resume: () => void (this.flow.paused = false),
  };
  readonly inbox: Inbox;
  readonly #decoder: Decoder;
  #lsn = 0n;

  constructor(limits: Partial<InboxLimits> = {}) {
    this.inbox = new Inbox({ ...wide, ...limits }, this.flow);
    this.#decoder = new Decoder(this.inbox, {
      tables: [table],
      domains: new Map(),
      format: "binary",
      sourceRegion: null,
    });
    this.#send(...describeTable(table));
  }

  begin(): void {
    this.#send(begin(this.#lsn, 1_700_000_000_000_000n + this.#lsn));
  }

  change(change: Change): void {
    const { key, version, prev, base, big } = change;
    const state = [int64(base), int64(version), int64(prev), null];
    if (change.kind === "tombstone") {
      this.#send(insert(2, [Buffer.from(key), ...state]));
    } else {
      this.#send(
        update(1, [
          Buffer.from(key),
          big === undefined ? undefined : Buffer.from(big),
          Buffer.from("o"),
          ...state,
        ]),
      );
    }
  }

  commit(): bigint {
    this.#lsn += 100n;
    this.#send(commit(this.#lsn));
    return this.#lsn;
  }

  transaction(...changes: Change[]): bigint {
    this.begin();
    changes.forEach((change) => this.change(change));
    return this.commit();
  }

  /** As the driver does: the memory of a message is overwritten afterwards. */
  #send(...messages: Buffer[]): void {
    for (const message of messages) {
      this.#decoder.decode(message);
      message.fill(0xee);
    }
  }
}

interface Change {
  readonly kind: "row" | "tombstone";
  readonly key: string;
  readonly version: bigint;
  readonly prev: bigint;
  readonly base: bigint;
  /** Undefined: unchanged, and not in the WAL. */
  readonly big: string | undefined;
}

const row = (key: string, version: bigint, more: Partial<Change> = {}): Change => ({
  kind: "row",
  key,
  version,
  prev: 0n,
  base: 0n,
  big: `${key}@${version}`,
  ...more,
});

const tombstone = (key: string, version: bigint, more: Partial<Change> = {}): Change => ({
  ...row(key, version, more),
  kind: "tombstone",
});

const soon = (ms = 1_000): AbortSignal => AbortSignal.timeout(ms);

const describeSet = (set: StateSet): string[] =>
  Array.from({ length: set.count }, (_, i) => {
    const key = set.field(i, "id")!.toString();
    const text = `${set.kind} ${key} ${set.base(i)}/${set.version(i)}`;
    if (set.kind === "tombstone") {
      return text;
    }
    return set.unchanged.length > 0
      ? `${text} since ${set.unchangedSince(i)}`
      : `${text} ${set.field(i, "big")?.toString()}`;
  });

const contents = (batch: Batch): string[] =>
  batch.tables.flatMap((part) => [part.rows, ...part.partial, part.tombstones]).flatMap(describeSet);

describe("the inbox", () => {
  test("hands out what there is: one transaction at first, then those which came meanwhile", async () => {
    const source = new Source();
    const first = source.inbox.take(soon());
    const one = source.transaction(row("a", 1n), row("b", 2n));
    expect(await first).toMatchObject({ transactions: 1, states: 2, endLsn: one, endsTransaction: true });
    source.transaction(row("a", 3n));
    const three = source.transaction(row("c", 4n));
    const batch = await source.inbox.take(soon());
    expect(batch).toMatchObject({ transactions: 2, changes: 2, endLsn: three });
    expect(batch.commitTime).toBe(1_700_000_000_000_000n + three - 100n);
    expect(contents(batch)).toEqual(["row a 0/3 a@3", "row c 0/4 c@4"]);
  });

  test("hands out whole transactions alone, and keeps the open one", async () => {
    const source = new Source();
    const one = source.transaction(row("a", 1n));
    source.begin();
    source.change(row("b", 2n));
    const batch = await source.inbox.take(soon());
    expect(batch).toMatchObject({ transactions: 1, endLsn: one });
    expect(contents(batch)).toEqual(["row a 0/1 a@1"]);
    const next = source.inbox.take(soon());
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
    const batches = [
      await source.inbox.take(soon()),
      await source.inbox.take(soon()),
      await source.inbox.take(soon()),
    ];
    batches.push(await source.inbox.take(soon()));
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
    expect(await source.inbox.take(soon())).toMatchObject({ states: 1, endsTransaction: false });
    expect(await source.inbox.take(soon())).toMatchObject({ states: 1, endsTransaction: true });
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
      taken += (await source.inbox.take(soon())).states;
    }
    expect(taken).toBeGreaterThan(0);
    expect(source.inbox.bufferedBytes).toBeLessThan(2_000);
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
      const batch = await source.inbox.take(soon());
      expect(batch).toMatchObject({ changes: 4_000, states: 100, transactions: 4_000 / perTransaction });
      expect(contents(batch).sort()[0]).toBe("row k0 0/4000 k0@4000");
    }
  });

  test("memory that was given back is used again, and not before", async () => {
    const distinct = async (releases: boolean): Promise<number> => {
      const source = new Source({ maxBatchBytes: 150_000, maxBufferedBytes: 600_000 });
      const used = new Set<unknown>();
      for (let round = 0; round < 8; round++) {
        for (let i = 0; i < 120; i++) {
          source.transaction(row(`k${i}`, BigInt(1000 * round + i + 1), { big: "x".repeat(1_500) }));
        }
        const batch = await source.inbox.take(soon());
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
    await source.inbox.take(soon());
    expect([source.inbox.awaited, source.flow.hurried]).toEqual([false, 0]);
    const taken = source.inbox.take(soon());
    expect([source.inbox.awaited, source.flow.hurried]).toEqual([true, 1]);
    source.transaction(row("b", 2n));
    expect(source.inbox.awaited).toBe(false);
    await taken;
  });

  test("a keepalive is handed out when nothing is outstanding, and not before what came before it", async () => {
    const source = new Source();
    source.inbox.keepalive(50n, 7n);
    expect(await source.inbox.take(soon())).toMatchObject({
      endLsn: 50n,
      commitTime: 7n,
      states: 0,
      endsTransaction: true,
    });
    source.transaction(row("a", 1n));
    source.inbox.keepalive(150n, 8n);
    expect(await source.inbox.take(soon())).toMatchObject({ endLsn: 100n, states: 1 });
    expect(await source.inbox.take(soon())).toMatchObject({ endLsn: 150n, states: 0 });
  });

  test("a keepalive in the middle of a transaction says nothing", async () => {
    const source = new Source();
    source.begin();
    source.change(row("a", 1n));
    source.inbox.keepalive(5_000n, 7n);
    source.commit();
    expect(await source.inbox.take(soon())).toMatchObject({ endLsn: 100n });
    await expect(source.inbox.take(soon(20))).rejects.toMatchObject({ name: "TimeoutError" });
  });

  test("what was received whole is still handed out after the stream has failed, then its error", async () => {
    const source = new Source();
    source.transaction(row("a", 1n));
    source.inbox.fail(new Error("lost"));
    expect(await source.inbox.take(soon())).toMatchObject({ states: 1 });
    await expect(source.inbox.take(soon())).rejects.toThrow("lost");
  });

  test("a taker that gives up loses nothing", async () => {
    const source = new Source();
    const stop = new AbortController();
    const given = source.inbox.take(stop.signal);
    stop.abort(new Error("enough"));
    source.transaction(row("a", 1n));
    await expect(given).rejects.toThrow("enough");
    expect(await source.inbox.take(soon())).toMatchObject({ states: 1 });
  });
});

describe("collapse", () => {
  const collapsed = async (...changes: Change[]): Promise<string[]> => {
    const source = new Source();
    source.transaction(...changes);
    return contents(await source.inbox.take(soon()));
  };

  test("keeps the highest state of a key, by base before version, over rows and tombstones", async () => {
    expect(await collapsed(row("a", 1n), row("a", 3n), tombstone("a", 2n))).toEqual(["row a 0/3 a@3"]);
    expect(await collapsed(row("a", 1n), tombstone("a", 2n))).toEqual(["tombstone a 0/2"]);
    expect(await collapsed(row("a", 9n), tombstone("a", 5n, { base: 5n }))).toEqual(["tombstone a 5/5"]);
    expect(
      await collapsed(row("a", 5n, { base: 5n }), row("a", 9n, { base: 5n }), row("a", 7n, { base: 7n })),
    ).toEqual(["row a 7/7 a@7"]);
  });

  test("takes an unchanged column from the change it was written upon", async () => {
    const later = row("a", 2n, { prev: 1n, big: undefined });
    expect(await collapsed(row("a", 1n), later)).toEqual(["row a 0/2 a@1"]);
  });

  test("leaves it out when another region's write lies between", async () => {
    const later = row("a", 4n, { prev: 3n, big: undefined });
    expect(await collapsed(row("a", 1n), later)).toEqual(["row a 0/4 since 3"]);
  });

  test("remembers over several changes since which version it is unchanged", async () => {
    const changes = [5n, 6n, 7n].map((version) => row("a", version, { prev: version - 1n, big: undefined }));
    expect(await collapsed(...changes)).toEqual(["row a 0/7 since 4"]);
  });

  test("of any changes, in any cut into transactions, batches and pieces, equals its dumb twin", async () => {
    const version = fc.bigInt(1n, 12n);
    const change = fc.record({
      kind: fc.constantFrom("row" as const, "row" as const, "tombstone" as const),
      key: fc.constantFrom("a", "b", "é", "\u{ff}", "ab", ""),
      version,
      prev: fc.oneof(version, fc.constant("last" as const)),
      base: fc.bigInt(0n, 2n),
      big: fc.option(fc.string(), { nil: undefined }),
      next: fc.constantFrom("", "", "commit", "take"),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(change, { maxLength: 40 }),
        fc.integer({ min: 1, max: 9 }),
        async (steps, maxBatchRows) => {
          const source = new Source({ maxBatchRows });
          const sent: Change[] = [];
          const batches: Batch[] = [];
          const ends = new Set<number>();
          source.begin();
          for (const { next: after, ...step } of steps) {
            const last = sent.findLast((other) => other.key === step.key)?.version ?? 1n;
            const next = { ...step, prev: step.prev === "last" ? last : step.prev };
            source.change(next);
            sent.push(next);
            if (after !== "") {
              source.commit();
              ends.add(sent.length);
              if (after === "take") {
                batches.push(await source.inbox.take(soon()));
              }
              source.begin();
            }
          }
          source.commit();
          ends.add(sent.length);
          let at = batches.reduce((sum, batch) => sum + batch.changes, 0);
          while (at < sent.length) {
            const batch = await source.inbox.take(soon());
            batches.push(batch);
            at += batch.changes;
          }
          at = 0;
          for (const batch of batches) {
            const part = sent.slice(at, at + batch.changes);
            at += batch.changes;
            expect(contents(batch).sort()).toEqual(twin(part).sort());
            expect(ends.has(at) || !batch.endsTransaction).toBe(true);
            for (const set of batch.tables.flatMap(({ rows, partial, tombstones }) => [
              rows,
              ...partial,
              tombstones,
            ])) {
              const keys = Array.from({ length: set.count }, (_, i) => set.field(i, "id")!);
              expect(keys).toEqual([...keys].sort((a, b) => a.compare(b)));
              expect(set.count).toBe(new Set(keys.map(String)).size);
            }
          }
          expect(at).toBe(sent.length);
        },
      ),
      { numRuns: 500 },
    );
  });
});

/** Says the same as `collapse`, one change after the other. */
const twin = (changes: readonly Change[]): string[] => {
  const higher = (a: Change, b: Change): boolean =>
    a.base === b.base ? a.version > b.version : a.base > b.base;
  const rows = new Map<string, Change & { since: bigint }>();
  for (const next of changes.filter(({ kind }) => kind === "row")) {
    const held = rows.get(next.key);
    if (held === undefined || higher(next, held)) {
      const follows = held !== undefined && next.big === undefined && next.prev === held.version;
      rows.set(
        next.key,
        follows ? { ...next, big: held.big, since: held.since } : { ...next, since: next.prev },
      );
    }
  }
  const texts = new Map<string, { state: Change; text: string }>();
  for (const state of rows.values()) {
    const content = state.big === undefined ? `since ${state.since}` : state.big;
    texts.set(state.key, { state, text: `row ${state.key} ${state.base}/${state.version} ${content}` });
  }
  for (const state of changes.filter(({ kind }) => kind === "tombstone")) {
    const held = texts.get(state.key);
    if (held === undefined || higher(state, held.state)) {
      texts.set(state.key, { state, text: `tombstone ${state.key} ${state.base}/${state.version}` });
    }
  }
  return [...texts.values()].map(({ text }) => text);
};
