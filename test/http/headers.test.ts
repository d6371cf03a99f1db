import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  etag,
  keyPath,
  parseIdempotencyKey,
  parseKeyPath,
  parseMatch,
  parsePrefer,
} from "../../src/http/headers.ts";

const refusal = expect.objectContaining({ code: "parameter-invalid" }) as object;

test("an ETag is the version, or base and version; what no row has matches none", () => {
  const owned = { version: 7n, base: 5n };
  expect([etag({ version: 7n, base: null }), etag(owned)]).toEqual(['"7"', '"5.7"']);
  expect(parseMatch(`"x", W/${etag(owned)} ,"99999999999999999999"`, "If-Match")).toEqual([owned]);
  expect(parseMatch('""', "If-Match")).toEqual([]);
  expect(parseMatch(" * ", "If-Match")).toBe("any");
  expect(parseMatch(undefined, "If-Match")).toBeNull();
  for (const header of ["", "7", '"7', '"7",', '"a"b"', '"7",'.repeat(21)]) {
    expect(() => parseMatch(header, "If-Match"), header).toThrow(refusal);
  }
});

test("a key in a path is the key again, whatever is in it", () => {
  fc.assert(
    fc.property(
      fc.array(fc.string({ unit: "grapheme", minLength: 1 }), { minLength: 1, maxLength: 4 }),
      (key) => {
        expect(parseKeyPath(keyPath(key), key.length)).toEqual(key);
        expect(keyPath(key)).not.toMatch(/[/?#]/);
      },
    ),
  );
  expect(parseKeyPath("a,b", 1)).toEqual(["a,b"]);
  expect(parseKeyPath("a,b%2Cc,", 3)).toEqual(["a", "b,c", ""]);
  expect(() => parseKeyPath("%ff", 1)).toThrow(refusal);
});

describe("Prefer", () => {
  test("is read over several headers, and what is not known is passed over", () => {
    expect(parsePrefer(['Return="minimal"; x=1', "wait=90, durable=2,count=exact, odd; ,"])).toEqual({
      return: "minimal",
      countExact: true,
      waitMs: 30_000,
      durable: { regions: 2 },
      mergeDuplicates: false,
      applied: ["return=minimal", "count=exact", "wait=30", "durable=2"],
    });
    expect(parsePrefer("return=everything, count=planned")).toMatchObject({ return: null, applied: [] });
    expect(parsePrefer(undefined).applied).toEqual([]);
  });

  test.each(["wait=soon", "wait=", "durable=-1", "durable=1.5", "durable=5000"])(
    "%s is refused",
    (header) => {
      expect(() => parsePrefer(header)).toThrow(refusal);
    },
  );
});

test("an idempotency key stands with or without quotes", () => {
  expect(parseIdempotencyKey('"a b"')).toBe("a b");
  expect(parseIdempotencyKey("a-b")).toBe("a-b");
  expect(parseIdempotencyKey(undefined)).toBeNull();
  for (const header of ["", '"', '""', "a b", "é", "a".repeat(256)]) {
    expect(() => parseIdempotencyKey(header), header).toThrow(refusal);
  }
});
