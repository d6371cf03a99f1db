import { describe, expect, test } from "vitest";
import { judgeContinuity } from "../../src/replication/continuity.ts";

const here = { incarnation: "one", lsn: 100n };

describe("whether a link goes on where it was", () => {
  test("at the first contact all states are copied, and streaming starts where the slot does", () => {
    expect(judgeContinuity(null, { confirmedLsn: 70n }, "one")).toEqual({
      kind: "resync",
      from: 70n,
      reason: "first contact",
    });
  });

  test.each([
    ["behind the progress: the source crashed, or the last confirmation was lost", 1n],
    ["exactly at the progress", 100n],
  ])("a slot %s", (_, confirmedLsn) => {
    expect(judgeContinuity(here, { confirmedLsn }, "one")).toEqual({ kind: "continue", from: 100n });
  });

  test("a slot one byte ahead of the progress: something is missing in between", () => {
    const judged = judgeContinuity(here, { confirmedLsn: 101n }, "one");
    expect(judged).toMatchObject({ kind: "resync", from: 101n });
  });

  test("another database under the same address: its positions mean nothing", () => {
    for (const confirmedLsn of [1n, 100n, 1000n]) {
      const judged = judgeContinuity(here, { confirmedLsn }, "two");
      expect(judged).toMatchObject({ kind: "resync", from: confirmedLsn });
      expect(judged).toHaveProperty("reason", expect.stringContaining("another"));
    }
  });
});
