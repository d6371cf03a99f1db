import { describe, expect, test } from "vitest";
import { type ContinuingSlot, judgeContinuity } from "../../src/replication/continuity.ts";

const here = { incarnation: "one", lsn: 100n };
const slotAt = (confirmedLsn: bigint, sourceLsn = 10_000n, created = false): ContinuingSlot => ({
  confirmedLsn,
  sourceLsn,
  created,
});

describe("whether a link goes on where it was", () => {
  test("at the first contact all states are copied, and streaming starts where the slot does", () => {
    expect(judgeContinuity(null, slotAt(70n), "one")).toEqual({
      kind: "resync",
      from: 70n,
      states: "own",
      reason: "first contact",
    });
  });

  test.each([
    ["behind the progress: the source crashed, or the last confirmation was lost", 1n],
    ["exactly at the progress", 100n],
  ])("a slot %s", (_, confirmedLsn) => {
    expect(judgeContinuity(here, slotAt(confirmedLsn), "one")).toEqual({ kind: "continue", from: 100n });
  });

  test("a slot one byte ahead of the progress: something is missing in between", () => {
    const judged = judgeContinuity(here, slotAt(101n), "one");
    // It may be this region that was set back: its own later writes are at its peers only.
    expect(judged).toMatchObject({ kind: "resync", from: 101n, states: "full" });
  });

  test("a slot that was made just now, ahead or behind", () => {
    for (const confirmedLsn of [90n, 101n]) {
      const judged = judgeContinuity(here, slotAt(confirmedLsn, 10_000n, true), "one");
      expect(judged).toMatchObject({ kind: "resync", from: confirmedLsn, states: "own" });
    }
  });

  test("a peer whose WAL ends before what was merged was set back, and is not waited for", () => {
    expect(judgeContinuity(here, slotAt(60n, 99n), "one")).toMatchObject({
      kind: "resync",
      from: 60n,
      states: "own",
    });
    expect(judgeContinuity(here, slotAt(60n, 100n), "one")).toEqual({ kind: "continue", from: 100n });
  });

  test("another database under the same address: its positions mean nothing", () => {
    for (const confirmedLsn of [1n, 100n, 1000n]) {
      const judged = judgeContinuity(here, slotAt(confirmedLsn), "two");
      expect(judged).toMatchObject({ kind: "resync", from: confirmedLsn });
      expect(judged).toHaveProperty("reason", expect.stringContaining("another"));
    }
  });
});
