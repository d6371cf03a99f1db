import {
  bigInt,
  boolean,
  constant,
  integer,
  nat,
  oneof,
  record,
  uniqueArray,
  type Arbitrary,
} from "fast-check";
import type { State } from "../../conflict/state.ts";
import {
  MAX_CLOCK_MICROS,
  MAX_REGION,
  MIN_REGION,
  pack,
  regionOf,
  type Version,
} from "../../conflict/version.ts";

/** Few regions and few moments, so that versions of one region meet; and the ends of both ranges. */
export const region: Arbitrary<number> = oneof(
  { weight: 9, arbitrary: integer({ min: 1, max: 5 }) },
  { weight: 1, arbitrary: integer({ min: MIN_REGION, max: MAX_REGION }) },
);
export const micros: Arbitrary<bigint> = oneof(
  { weight: 9, arbitrary: bigInt({ min: 1n, max: 8n }) },
  { weight: 1, arbitrary: bigInt({ min: 1n, max: MAX_CLOCK_MICROS }) },
);
export const version: Arbitrary<Version> = record({ micros, region }).map((v) => pack(v.micros, v.region));

export const seen: Arbitrary<readonly Version[] | null> = uniqueArray(version, {
  selector: regionOf,
  maxLength: 4,
}).map((versions) => (versions.length === 0 ? null : versions.sort((a, b) => regionOf(a) - regionOf(b))));

/** Any state; its content follows from its order, since one version is one write. */
export const state: Arbitrary<State> = record({
  row: boolean(),
  base: oneof(constant(0n), version),
  version,
  prev: oneof(constant(0n), version),
  seen,
}).map(({ row, ...stamp }) => {
  const others = stamp.seen?.filter((v) => regionOf(v) !== regionOf(stamp.version)) ?? [];
  const fit = { ...stamp, seen: others.length === 0 ? null : others };
  return row
    ? { kind: "row", content: `${stamp.base}.${stamp.version}`, ...fit }
    : { kind: "tombstone", ...fit };
});

export const clockMicros: Arbitrary<bigint> = oneof(micros, nat(100).map(BigInt), constant(2n ** 60n));
