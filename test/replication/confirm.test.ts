import { getEventListeners } from "node:events";
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Confirmation } from "../../src/replication/confirm.ts";

describe("what may be confirmed to the source", () => {
  test("at first is what its slot has confirmed already", () => {
    expect(new Confirmation(100n).confirmed).toBe(100n);
  });

  test("does not move when a transaction is committed, but may still be lost", () => {
    const confirmation = new Confirmation(100n);
    confirmation.committed(200n, 7n);
    expect(confirmation.confirmed).toBe(100n);
    expect(confirmation.awaitedTargetLsn).toBe(7n);
  });

  test("is exactly the end of the last transaction once the target has flushed its commit", () => {
    const confirmation = new Confirmation(100n);
    confirmation.committed(200n, 7n);
    expect(confirmation.flushed(7n)).toBe(true);
    expect(confirmation.confirmed).toBe(200n);
    expect(confirmation.awaitedTargetLsn).toBeNull();
  });

  test("stays when the target has flushed less", () => {
    const confirmation = new Confirmation(100n);
    confirmation.committed(200n, 7n);
    expect(confirmation.flushed(6n)).toBe(false);
    expect(confirmation.confirmed).toBe(100n);
  });

  test("moves over those commits alone that are flushed", () => {
    const confirmation = new Confirmation(100n);
    confirmation.committed(200n, 7n);
    confirmation.committed(300n, 9n);
    expect(confirmation.lastTargetLsn).toBe(9n);
    confirmation.flushed(8n);
    expect(confirmation.confirmed).toBe(200n);
    expect(confirmation.awaitedTargetLsn).toBe(9n);
  });

  test("is a keepalive's position when nothing is outstanding", () => {
    const confirmation = new Confirmation(100n);
    confirmation.idle(150n);
    expect(confirmation.confirmed).toBe(150n);
  });

  test("is not a keepalive's position while a commit before it may be lost", () => {
    const confirmation = new Confirmation(100n);
    confirmation.committed(200n, 7n);
    confirmation.idle(250n);
    expect(confirmation.confirmed).toBe(100n);
    confirmation.flushed(7n);
    expect(confirmation.confirmed).toBe(250n);
  });

  test("never goes down, whatever comes again after a reconnect", () => {
    const confirmation = new Confirmation(100n);
    confirmation.committed(60n, 3n);
    confirmation.idle(80n);
    expect(confirmation.flushed(5n)).toBe(false);
    expect(confirmation.confirmed).toBe(100n);
  });

  test("however long the target does not flush, is kept track of in bounded memory, and then complete", () => {
    const confirmation = new Confirmation(1n);
    for (let i = 2n; i <= 5000n; i++) {
      confirmation.committed(i, i * 10n);
    }
    confirmation.flushed(10_230n);
    expect(confirmation.confirmed).toBe(1023n);
    confirmation.flushed(49_990n);
    expect(confirmation.confirmed).toBe(1024n);
    confirmation.flushed(50_000n);
    expect(confirmation.confirmed).toBe(5000n);
  });

  test("is waited for until there is something to be told, or nobody is to be told; nothing stays at the signal", async () => {
    const confirmation = new Confirmation(100n);
    const ended = new AbortController();
    const waiting = () => getEventListeners(ended.signal, "abort").length;
    for (let lsn = 101n; lsn <= 120n; lsn++) {
      const due = confirmation.due(lsn - 1n, ended.signal);
      expect(waiting()).toBe(1);
      confirmation.idle(lsn);
      await due;
      expect(waiting()).toBe(0);
    }
    const due = confirmation.due(120n, ended.signal);
    ended.abort();
    await due;
    await confirmation.due(120n, ended.signal);
  });

  test("in any course of events is never beyond what a crash of the target would leave", () => {
    const event = fc.record({
      kind: fc.constantFrom("commit", "idle", "flush"),
      step: fc.bigInt(0n, 5n),
    });
    fc.assert(
      fc.property(fc.array(event, { maxLength: 60 }), (events) => {
        const confirmation = new Confirmation(10n);
        const commits: { end: bigint; target: bigint }[] = [];
        let [source, target, flushed] = [10n, 0n, 0n];
        for (const { kind, step } of events) {
          if (kind === "commit") {
            source += step + 1n;
            target += step + 1n;
            commits.push({ end: source, target });
            confirmation.committed(source, target);
          } else if (kind === "idle") {
            source += step;
            confirmation.idle(source);
          } else {
            flushed = flushed + step > target ? target : flushed + step;
            confirmation.flushed(flushed);
          }
          const lost = commits.find((commit) => commit.target > flushed);
          // Not the end of any commit that would be lost, nor anything after.
          expect(lost === undefined || confirmation.confirmed < lost.end).toBe(true);
        }
        confirmation.flushed(target);
        expect(confirmation.confirmed).toBe(source);
      }),
    );
  });
});
