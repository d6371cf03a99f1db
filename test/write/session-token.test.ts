import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { microsOf, pack } from "../../conflict/version.ts";
import {
  emptySession,
  filterSession,
  maxPositions,
  mergeSessions,
  type OriginPosition,
  type SessionToken,
  SessionTokenFormat,
  SessionTokenInvalid,
  stampAbove,
} from "../../src/write/session-token.ts";
import { runs } from "../conflict/runs.ts";

const incarnations = ["a", "b", "c"].map((digit) => `${digit.repeat(8)}-0000-4000-8000-${digit.repeat(12)}`);
const lsn = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const region = fc.oneof(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 1023 }));
const position: fc.Arbitrary<OriginPosition> = fc.record({
  origin: region,
  incarnation: fc.constantFrom(...incarnations),
  lsn: fc.oneof(fc.bigInt({ min: 0n, max: 3n }), lsn),
});
const version = fc.oneof(
  fc.constant(0n),
  fc.tuple(fc.bigInt({ min: 0n, max: 2n ** 53n - 1n }), region).map(([micros, id]) => pack(micros, id)),
);
/** Tokens are made by merging; so is every one here. */
const token: fc.Arbitrary<SessionToken> = fc
  .record({ positions: fc.array(position, { maxLength: 12 }), version })
  .map((raw) => mergeSessions(emptySession, raw));

const format = new SessionTokenFormat("weightbook");

describe("merging", () => {
  test("is commutative, associative and idempotent, and the empty token changes nothing", () => {
    fc.assert(
      fc.property(token, token, token, (a, b, c) => {
        expect(mergeSessions(a, b)).toEqual(mergeSessions(b, a));
        expect(mergeSessions(mergeSessions(a, b), c)).toEqual(mergeSessions(a, mergeSessions(b, c)));
        expect(mergeSessions(a, a)).toEqual(a);
        expect(mergeSessions(a, emptySession)).toEqual(a);
      }),
      runs(500),
    );
  });

  test("loses nothing: each position and version of either is there, or a higher one of its kind", () => {
    fc.assert(
      fc.property(token, token, (a, b) => {
        const merged = mergeSessions(a, b);
        for (const wanted of [...a.positions, ...b.positions]) {
          const [found, ...others] = merged.positions.filter(
            ({ origin, incarnation }) => origin === wanted.origin && incarnation === wanted.incarnation,
          );
          expect(others).toEqual([]);
          expect(found?.lsn).toBeGreaterThanOrEqual(wanted.lsn);
          expect([...a.positions, ...b.positions]).toContainEqual(found);
        }
        expect([a.version, b.version]).toContain(merged.version);
        expect(merged.version >= a.version && merged.version >= b.version).toBe(true);
      }),
      runs(500),
    );
  });

  test("keeps both databases of a region that was set up anew: their positions cannot be compared", () => {
    const [before = "", after = ""] = incarnations;
    const merged = mergeSessions(
      { positions: [{ origin: 1, incarnation: before, lsn: 900n }], version: 0n },
      { positions: [{ origin: 1, incarnation: after, lsn: 5n }], version: 0n },
    );
    expect(merged.positions.map((each) => each.lsn)).toEqual([900n, 5n]);
    expect(filterSession(merged, (each) => each.incarnation === after).positions).toHaveLength(1);
  });
});

describe("the text", () => {
  test("is read back as it was", () => {
    fc.assert(
      fc.property(token, (a) => {
        expect(format.decode(format.encode(a))).toEqual(a);
      }),
      runs(500),
    );
  });

  test("anything else is refused, in one way: other texts, a token changed in one place, of another cluster", () => {
    const refused = (text: string): void => {
      expect(() => format.decode(text)).toThrow(SessionTokenInvalid);
    };
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.base64String(), fc.string({ unit: "binary" })), refused),
      runs(500),
    );
    fc.assert(
      fc.property(
        token,
        fc.nat(),
        fc.constantFrom("A", "z", "0", "-", "_", " ", "=", ".", "é"),
        (a, at, character) => {
          const text = format.encode(a);
          const place = at % text.length;
          const changed = text.slice(0, place) + character + text.slice(place + 1);
          if (changed !== text) refused(changed);
          refused(text.slice(0, place));
          refused(text + character);
          expect(() => new SessionTokenFormat("another").decode(text)).toThrow(SessionTokenInvalid);
        },
      ),
      runs(500),
    );
    refused("A".repeat(1_000_000));
  });

  test("is bounded", () => {
    const positions = Array.from({ length: maxPositions }, (_, i) => ({
      origin: i + 1,
      incarnation: incarnations[0] ?? "",
      lsn: 2n ** 64n - 1n,
    }));
    const text = format.encode({ positions, version: 0n });
    expect(text.length).toBeLessThan(4_500);
    expect(format.decode(text).positions).toHaveLength(maxPositions);
    const one = { origin: 1_000, incarnation: incarnations[0] ?? "", lsn: 1n };
    expect(() => format.encode({ positions: [...positions, one], version: 0n })).toThrow(RangeError);
  });
});

test("writes are stamped above the version, but one from the far future counts as a day ahead", () => {
  const now = Date.UTC(2026, 0, 1);
  const seen = pack(BigInt(now) * 1000n + 3_600_000_000n, 7);
  expect(stampAbove({ positions: [], version: seen }, now)).toBe(seen.toString());
  expect(stampAbove(emptySession, now)).toBe("0");
  const invented = pack(2n ** 53n - 1n, 1023);
  const most = BigInt(stampAbove({ positions: [], version: invented }, now));
  expect(Number(microsOf(most) / 1000n) - now).toBe(86_400_000);
});
