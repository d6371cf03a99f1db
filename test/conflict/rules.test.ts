import { assert, boolean, constant, constantFrom, oneof, property as forAll, record } from "fast-check";
import { describe, expect, it } from "vitest";
import { conflictType, succeeded } from "../../conflict/classify.ts";
import { merge, retracts } from "../../conflict/conflict-log.ts";
import { hasAuthority } from "../../conflict/ownership.ts";
import { compareStates, join, seenAfter, write, type State } from "../../conflict/state.ts";
import {
  MAX_CLOCK_MICROS,
  MAX_MICROS,
  microsOf,
  nextVersion,
  pack,
  regionOf,
  unpack,
} from "../../conflict/version.ts";
import { clockMicros, micros, region, state, version } from "./arbitraries.ts";
import { runs } from "./runs.ts";

describe("versions", () => {
  it("pack and unpack are inverse, and order by time, then region", () => {
    assert(
      forAll(micros, region, micros, region, (m, r, m2, r2) => {
        const v = pack(m, r);
        expect(unpack(v)).toEqual({ micros: m, region: r });
        expect(v < pack(m2, r2)).toBe(m < m2 || (m === m2 && r < r2));
      }),
      runs(1_000),
    );
  });

  it("the highest fits PostgreSQL's bigint exactly", () => {
    expect(pack(MAX_MICROS, 1023)).toBe(2n ** 63n - 1n);
  });

  it.each([
    [1n, 0],
    [1n, 1024],
    [1n, 1.5],
    [1n, NaN],
    [-1n, 1],
    [MAX_MICROS + 1n, 1],
  ])("refuses %s microseconds of region %s", (m, r) => {
    expect(() => pack(m, r)).toThrow(RangeError);
  });

  it.each([0n, -1n, 1024n, 2n ** 63n + 1n])("%s is not a version", (v) => {
    expect(() => unpack(v)).toThrow(RangeError);
  });

  it("the next outranks what it replaces under any clock", () => {
    assert(
      forAll(clockMicros, region, oneof(constant(0n), version), (clock, r, replaced) => {
        const next = nextVersion({ clockMicros: clock, region: r, replaced });
        expect(next).toBeGreaterThan(replaced);
        expect(regionOf(next)).toBe(r);
        expect(microsOf(next) >= (clock < MAX_CLOCK_MICROS ? clock : MAX_CLOCK_MICROS)).toBe(true);
      }),
      runs(1_000),
    );
  });

  it("a clock beyond 2255 leaves room for the writes that follow, and the very end is refused", () => {
    const far = nextVersion({ clockMicros: 2n ** 62n, region: 7, replaced: 0n });
    expect(nextVersion({ clockMicros: 2n ** 62n, region: 3, replaced: far })).toBe(
      pack(MAX_CLOCK_MICROS + 1n, 3),
    );
    expect(() => nextVersion({ clockMicros: 0n, region: 3, replaced: pack(MAX_MICROS, 1) })).toThrow(
      RangeError,
    );
  });
});

describe("states", () => {
  it("join is commutative, associative and idempotent, and gives the higher", () => {
    assert(
      forAll(state, state, state, (a, b, c) => {
        // One version of one base is one write; let equals be the same.
        const [x, y, z] = [a, same(b, a), same(same(c, a), b)];
        expect(join(x, y)).toEqual(join(y, x));
        expect(join(join(x, y), z)).toEqual(join(x, join(y, z)));
        expect(join(x, x)).toEqual(x);
        expect(compareStates(join(x, y), x)).toBeGreaterThanOrEqual(0);
        expect(Math.sign(compareStates(x, y))).toBe(-Math.sign(compareStates(y, x)) + 0);
      }),
      runs(3_000),
    );
  });

  const by = record({
    region,
    clockMicros,
    content: constantFrom(null, "a", "b"),
    authority: boolean(),
    above: oneof(constant(0n), version),
  });

  it("every local write outranks what it replaces and all that it must be above", () => {
    assert(
      forAll(oneof(constant(null), state), by, (held, made) => {
        const next = write(held, made);
        if (held !== null) {
          expect(compareStates(next, held)).toBeGreaterThan(0);
          expect(next.version > held.version && next.version > held.base).toBe(true);
          expect(succeeded(held.version, next)).toBe(true);
        }
        expect(next.version).toBeGreaterThan(made.above);
        expect(next.prev).toBe(held?.version ?? 0n);
        expect(next.base).toBe(made.authority ? next.version : (held?.base ?? 0n));
        expect(next.kind).toBe(made.content === null ? "tombstone" : "row");
      }),
      runs(3_000),
    );
  });

  it("seen holds every other region of the chain once, ascending", () => {
    assert(
      forAll(state, region, (held, r) => {
        const seen = seenAfter(held, r) ?? [];
        const regions = seen.map(regionOf);
        expect(regions).toEqual([...new Set(regions)].sort((a, b) => a - b));
        expect(regions).not.toContain(r);
        const before = [held.version, ...(held.seen ?? [])].filter((v) => regionOf(v) !== r);
        expect(new Set(seen)).toEqual(new Set(before));
      }),
      runs(3_000),
    );
    expect(seenAfter(null, 1)).toBeNull();
  });
});

describe("authority", () => {
  const usual = { region: "a", takeover: false, failover: "takeover" } as const;
  it.each([
    ["the owner updates", { before: "a", after: "a" }, true],
    ["another updates", { before: "b", after: "b" }, false],
    ["nobody's row is updated", { before: null, after: null }, false],
    ["the owner inserts", { before: undefined, after: "a" }, true],
    ["an insert for another", { before: undefined, after: "b" }, false],
    ["an insert for nobody", { before: undefined, after: null }, false],
    ["the owner deletes", { before: "a", after: undefined }, true],
    ["another deletes", { before: "b", after: undefined }, false],
    ["nobody's row is deleted", { before: null, after: undefined }, false],
    ["another takes the row", { before: "b", after: "a" }, true],
    ["another gives it to a third", { before: "b", after: "c" }, true],
    ["nobody's row is taken", { before: null, after: "a" }, true],
    ["another makes it nobody's", { before: "b", after: null }, true],
    ["the owner gives it away", { before: "a", after: "b" }, true],
    ["a takeover", { before: "b", after: "b", takeover: true }, true],
    ["a takeover's delete", { before: "b", after: undefined, takeover: true }, true],
    ["a provisional takeover", { before: "b", after: "b", takeover: true, failover: "provisional" }, false],
  ] as const)("%s: %o is %s", (_name, write, expected) => {
    expect(hasAuthority({ ...usual, ...write })).toBe(expected);
  });
});

describe("conflicts", () => {
  const row = (prev: bigint) => ({ kind: "row", prev }) as const;
  const tombstone = { kind: "tombstone", prev: 1n } as const;
  it.each([
    [row(0n), row(0n), "insert_exists"],
    [row(1n), row(0n), "update_origin_differs"],
    [row(0n), row(1n), "update_origin_differs"],
    [row(0n), tombstone, "update_deleted"],
    [tombstone, row(2n), "update_deleted"],
    [tombstone, tombstone, "delete_missing"],
  ] as const)("%o and %o: %s", (a, b, type) => {
    expect(conflictType(a, b)).toBe(type);
    expect(conflictType(b, a)).toBe(type);
  });

  const put = (held: State | null, region: number, clock: number, more = {}): State =>
    write(held, {
      region,
      clockMicros: BigInt(clock),
      content: `${region}@${clock}`,
      authority: false,
      ...more,
    });

  it("a write upon another is none, two that did not see each other are one, whichever arrives first", () => {
    const first = put(null, 1, 1);
    const upon = put(first, 2, 2);
    const rival = put(null, 3, 9);
    expect(merge(first, upon, 4)).toMatchObject({ held: upon, replaces: true, report: null });
    expect(merge(upon, first, 4)).toMatchObject({ held: upon, replaces: false, report: null });
    const report = { loser: upon, winner: rival, type: "update_origin_differs", detectedIn: 4 };
    expect(merge(upon, rival, 4)).toMatchObject({ held: rival, replaces: true, report });
    expect(merge(rival, upon, 4)).toMatchObject({ held: rival, replaces: false, report });
    expect(merge(rival, rival, 4)).toMatchObject({ held: rival, replaces: false, report: null });
  });

  it("equal rows inserted in two regions are none", () => {
    const [a, b] = [put(null, 1, 1, { content: "same" }), put(null, 2, 1, { content: "same" })];
    expect(merge(a, b, 3).report).toBeNull();
    expect(merge(a, put(b, 2, 2, { content: "same" }), 3).report).not.toBeNull();
  });

  it("a region does not report a write of its own that comes back", () => {
    const [own, rival] = [put(null, 1, 1), put(null, 2, 2)];
    expect(merge(own, rival, 1).report).not.toBeNull();
    expect(merge(rival, own, 1).report).toBeNull();
  });

  it("the report of an overruled write outlives what its region writes upon the winner", () => {
    const lost = put(null, 1, 1);
    const winner = put(null, 2, 2);
    expect(merge(lost, winner, 1).report?.loser).toBe(lost);
    // Region 1 goes on upon the winner, and region 3 upon that: its `seen` covers the lost write, unseen.
    const later = put(put(winner, 1, 3), 3, 4);
    expect(succeeded(lost.version, later)).toBe(true);
    expect(retracts(lost.version, later, 1)).toBe(false);
    // In another region the report is an insurance only, and goes.
    expect(retracts(lost.version, later, 2)).toBe(true);
    // A descendant that arrives after all withdraws it.
    expect(retracts(lost.version, put(lost, 3, 4), 1)).toBe(true);
  });

  it("an owner's lower version that wins raises the floor, and no version is given twice", () => {
    // A row stamped by a clock far ahead; region 2 owns it and writes upon it once, region 1 twice.
    const ahead = put(null, 3, 1_000);
    const mine = put(put(ahead, 1, 1), 1, 2);
    const owners = put(ahead, 2, 1, { authority: true });
    const { held, floor, report } = merge(mine, owners, 1);
    expect([held, report?.loser]).toEqual([owners, mine]);
    expect(floor).toBe(mine.version);
    expect(put(held, 1, 3).version).toBe(mine.version);
    expect(put(held, 1, 3, { above: floor }).version).toBeGreaterThan(mine.version);
    expect(merge(owners, put(owners, 1, 3), 2).floor).toBe(0n);
  });
});

const same = (a: State, b: State): State => (compareStates(a, b) === 0 ? b : a);
