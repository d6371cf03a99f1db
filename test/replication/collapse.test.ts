import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Batch } from "../../src/replication/batch.ts";
import { type Change, contents, row, soon, Source, tombstone } from "./inbox-source.ts";

describe("collapse", () => {
  const collapsed = async (...changes: Change[]): Promise<string[]> => {
    const source = new Source();
    source.transaction(...changes);
    return contents(await source.take(soon()));
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
                batches.push(await source.take(soon()));
              }
              source.begin();
            }
          }
          source.commit();
          ends.add(sent.length);
          let at = batches.reduce((sum, batch) => sum + batch.changes, 0);
          while (at < sent.length) {
            const batch = await source.take(soon());
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
