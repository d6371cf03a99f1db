import {
  array,
  boolean,
  constant,
  constantFrom,
  integer,
  nat,
  oneof,
  record,
  type Arbitrary,
} from "fast-check";
import { compareStates, type State } from "../../conflict/state.ts";
import type { Version } from "../../conflict/version.ts";
import { Cluster, type Region, type Rules, type Written } from "./model.ts";

/** Random histories, and what must hold at their end. */

const HOUR_MICROS = 3_600_000_000;

interface Action {
  readonly what: "put" | "delete" | "stream" | "setBack" | "resyncOwn" | "resyncFull" | "clock" | "settle";
  readonly at: number;
  readonly peer: number;
  readonly key: number;
  readonly count: number;
  readonly owner: number | null | undefined;
  readonly flag: boolean;
  readonly micros: number;
}

export interface History {
  readonly offsets: readonly number[];
  /** Keys of even number are of an owned table, of odd number of a plain one. */
  readonly keys: number;
  readonly failover: "takeover" | "provisional";
  readonly actions: readonly Action[];
}

const offset = integer({ min: -HOUR_MICROS, max: HOUR_MICROS });

const action: Arbitrary<Action> = record({
  what: oneof(
    { weight: 8, arbitrary: constant("put" as const) },
    { weight: 3, arbitrary: constant("delete" as const) },
    { weight: 12, arbitrary: constant("stream" as const) },
    { weight: 1, arbitrary: constant("setBack" as const) },
    { weight: 1, arbitrary: constant("resyncOwn" as const) },
    { weight: 1, arbitrary: constant("resyncFull" as const) },
    { weight: 1, arbitrary: constant("clock" as const) },
    { weight: 1, arbitrary: constant("settle" as const) },
  ),
  at: nat(59),
  peer: nat(59),
  key: nat(59),
  count: integer({ min: 1, max: 6 }),
  owner: oneof(
    { weight: 6, arbitrary: constant(undefined) },
    { weight: 1, arbitrary: constant(null) },
    { weight: 2, arbitrary: nat(59) },
  ),
  flag: boolean(),
  micros: offset,
});

export const history: Arbitrary<History> = record({
  offsets: array(offset, { minLength: 3, maxLength: 5 }),
  keys: integer({ min: 1, max: 3 }),
  failover: constantFrom("takeover" as const, "provisional" as const),
  actions: array(action, { maxLength: 60, size: "max" }),
});

const pick = <T>(from: readonly T[], n: number): T => {
  const picked = from[n % from.length];
  if (picked === undefined) throw new Error("nothing to pick from");
  return picked;
};

const act = (cluster: Cluster, of: History, by: Action): void => {
  const at = pick(cluster.regions, by.at);
  const peer = pick(
    cluster.regions.filter((r) => r !== at),
    by.peer,
  );
  cluster.nowMicros += BigInt(by.count) * 1_000n;
  switch (by.what) {
    case "put":
    case "delete": {
      const owner = typeof by.owner === "number" ? pick(cluster.regions, by.owner).id : by.owner;
      const key = by.key % of.keys;
      const takeover = by.flag && by.count > 3;
      cluster.write(at, {
        key: `k${key}`,
        kind: by.what,
        owned: key % 2 === 0,
        owner,
        takeover,
        failover: of.failover,
      });
      return;
    }
    case "stream":
      return cluster.stream(peer, at, { count: by.count, collapse: by.flag });
    case "setBack":
      return cluster.setBack(peer, at, by.count);
    case "resyncOwn":
      return cluster.resync(peer, at, "own");
    case "resyncFull":
      return cluster.resync(peer, at, "full");
    case "clock":
      at.offsetMicros = BigInt(by.micros);
      return;
    case "settle":
      return cluster.settle();
  }
};

export const play = (of: History, rules: Rules): Cluster => {
  const cluster = new Cluster(of.offsets.map(BigInt), rules);
  for (const by of of.actions) act(cluster, of, by);
  cluster.settle();
  return cluster;
};

/** The versions of `state` and of everything that it was written upon, in turn. */
const chainOf = (state: State, writes: ReadonlyMap<Version, Written>): Set<Version> => {
  const chain = new Set<Version>();
  for (let at: Version = state.version; at !== 0n; at = writes.get(at)?.parent ?? 0n) chain.add(at);
  return chain;
};

const show = (versions: Iterable<Version>): string => [...versions].join(", ");

const checkEqual = (one: Region, other: Region): void => {
  const keys = new Set([...one.held.keys(), ...other.held.keys()]);
  for (const key of keys) {
    const a = one.held.get(key);
    const b = other.held.get(key);
    if (a === undefined || b === undefined || compareStates(a, b) !== 0 || a.kind !== b.kind)
      throw new Error(`regions ${one.id} and ${other.id} differ in ${key}`);
  }
};

const checkKey = (cluster: Cluster, key: string, at: Region): void => {
  const ofKey = cluster.writes.filter((w) => w.key === key);
  const writes = new Map(ofKey.map((w) => [w.state.version, w]));
  if (writes.size !== ofKey.length) throw new Error(`${key}: one version was given twice`);
  const stays = at.held.get(key);
  const top = ofKey.reduce((a, b) => (compareStates(a.state, b.state) >= 0 ? a : b));
  if (stays?.version !== top.state.version) throw new Error(`${key}: what stays is not the highest write`);

  for (const last of ofKey) {
    const knewAll = ofKey.every((w) => w.position < seenUpTo(last, w));
    if (knewAll && last.state.version !== stays.version)
      throw new Error(`${key}: ${last.state.version} had seen all others, but ${stays.version} stays`);
  }

  const chain = chainOf(stays, writes);
  const reported = cluster.reported(at, key);
  const ancestors = reported.intersection(chain);
  if (ancestors.size > 0) throw new Error(`${key}: L2, ancestors in the log: ${show(ancestors)}`);
  const writtenUpon = new Set(ofKey.map((w) => w.parent));
  const lost = ofKey
    .map((w) => w.state.version)
    .filter((v) => v !== stays.version && !writtenUpon.has(v) && !reported.has(v));
  if (lost.length > 0) throw new Error(`${key}: L1, lost without a report: ${show(lost)}`);
};

/** The position up to which `by`'s region had merged the WAL of the region that wrote `w`, its own write included. */
const seenUpTo = (by: Written, w: Written): number => {
  if (by === w) return Infinity;
  return by.knew.get(Number(w.state.version & 1023n)) ?? 0;
};

/** Everything that must hold once all regions have merged all changes. */
export const check = (cluster: Cluster): void => {
  const [first, ...others] = cluster.regions;
  if (first === undefined) throw new Error("no regions");
  for (const other of others) checkEqual(first, other);
  for (const key of new Set(cluster.writes.map((w) => w.key))) checkKey(cluster, key, first);
};
