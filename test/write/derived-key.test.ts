import * as fc from "fast-check";
import { decodeTime, isValid, ulid, ulidToUUID } from "ulid";
import { expect, test } from "vitest";
import { derivedKey } from "../../src/write/derived-key.ts";
import { runs } from "../conflict/runs.ts";

const id = fc.record({ scope: fc.string(), key: fc.oneof(fc.string(), fc.uuid(), fc.ulid()) });

test("one request's row has one key, a ULID and a uuid of the same bits; another's has another", () => {
  fc.assert(
    fc.property(id, fc.nat(1_000), id, fc.nat(1_000), (a, i, b, j) => {
      const key = derivedKey(a, i);
      expect(derivedKey({ ...a }, i)).toEqual(key);
      expect(isValid(key.ulid)).toBe(true);
      expect(key.uuid).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
      expect(ulidToUUID(key.ulid).toLowerCase()).toBe(key.uuid);
      if (a.scope !== b.scope || a.key !== b.key || i !== j) expect(derivedKey(b, j)).not.toEqual(key);
    }),
    runs(300),
  );
});

test("the rows of keys that have a time order by it, and by nothing else that was sent", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 2 ** 47 }), fc.nat(1_000), fc.string(), (ms, ordinal, scope) => {
      const key = ulid(ms); // which takes 0 for "now"
      expect(decodeTime(derivedKey({ scope, key }, ordinal).ulid)).toBe(ms);
      expect(decodeTime(derivedKey({ scope, key: key.toLowerCase() }, ordinal).ulid)).toBe(ms);
      const uuid7 = ulidToUUID(key)
        .toLowerCase()
        .replace(/^(.{14}).(.{4}).(.*)$/, "$17$28$3");
      expect(decodeTime(derivedKey({ scope, key: uuid7 }, ordinal).ulid)).toBe(ms);
    }),
    runs(300),
  );
});
