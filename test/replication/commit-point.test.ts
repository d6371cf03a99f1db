import { Buffer } from "node:buffer";
import fc from "fast-check";
import { expect, test } from "vitest";
import { CommitPoint, postgresEpoch } from "../../src/replication/commit-point.ts";

test("a commit point is that which was read last, or copied; 0 before", () => {
  const point = new CommitPoint();
  expect([point.endLsn, point.commitTime]).toEqual([0n, 0n]);
  const lsn = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
  const time = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
  fc.assert(
    fc.property(lsn, time, fc.nat(3), (end, micros, at) => {
      const message = Buffer.alloc(at + 16);
      message.writeBigUInt64BE(end, at);
      message.writeBigInt64BE(micros, at + 8);
      const read = new CommitPoint();
      read.readEnd(message, at);
      read.readTime(message, at + 8);
      point.copy(read);
      read.readEnd(Buffer.alloc(8), 0);
      expect([point.endLsn, point.commitTime]).toEqual([end, micros + postgresEpoch]);
    }),
  );
});
