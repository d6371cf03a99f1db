import { createHash } from "node:crypto";
import type { IdempotencyKey } from "./idempotency.ts";

/**
 * The key of a row that was inserted without one under an idempotency key: the same wherever and whenever the request is
 * carried out, so that two regions which both did so in a partition end with one row.
 *
 * 128 bits, for columns of type uuid and for ULIDs alike: 48 bits of milliseconds, then hash, with the marks of a
 * version 8 uuid (RFC 9562). An idempotency key that is itself a ULID or a version 7 uuid lends its time, so
 * that the rows order by time of creation as others do. Any other key has no time that all regions would agree on: its
 * rows have hash in that place, and are in no order.
 */
export interface DerivedKey {
  readonly uuid: string;
  readonly ulid: string;
}

const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const ulidPattern = /^[0-7][0-9A-HJKMNP-TV-Z]{25}$/i;
const uuid7Pattern = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/i;

const timeOf = (key: string): bigint | null => {
  if (uuid7Pattern.test(key)) return BigInt(`0x${key.slice(0, 8)}${key.slice(9, 13)}`);
  if (!ulidPattern.test(key)) return null;
  let time = 0n;
  for (const character of key.slice(0, 10).toUpperCase()) {
    time = (time << 5n) | BigInt(alphabet.indexOf(character));
  }
  return time;
};

const toUlid = (bits: bigint): string =>
  Array.from({ length: 26 }, (_, i) => alphabet[Number((bits >> BigInt(5 * (25 - i))) & 31n)]).join("");

const toUuid = (bits: bigint): string =>
  bits
    .toString(16)
    .padStart(32, "0")
    .replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");

/** @param ordinal which row of the request, counted over all its operations, from 0 */
export const derivedKey = (id: Pick<IdempotencyKey, "scope" | "key">, ordinal: number): DerivedKey => {
  const digest = createHash("sha256")
    .update(JSON.stringify(["coregent row", id.scope, id.key, ordinal]))
    .digest("hex");
  const hash = BigInt(`0x${digest.slice(0, 32)}`);
  const time = timeOf(id.key);
  const timed = time === null ? hash : (time << 80n) | (hash & ((1n << 80n) - 1n));
  const bits = (timed & ~((0xfn << 76n) | (3n << 62n))) | (8n << 76n) | (2n << 62n);
  return { uuid: toUuid(bits), ulid: toUlid(bits) };
};
