import type { TestCluster, TestRegion } from "../../src/testing/index.ts";
import { History, type LogEntry } from "../convergence/history.ts";
import { readLog, tombstonesOf } from "../convergence/read.ts";
import { allStatesSql, highest } from "../convergence/watcher.ts";
import type { StateRow } from "../convergence/writers.ts";
import { outranked, problemsOf } from "./oracle.ts";
import type { Attempt, Done, Effect } from "./record.ts";
import { below } from "./session.ts";
import { tables } from "./tables.ts";
import { tooLong, waitsOf, type Wait, type WaitFacts } from "./waits.ts";
import type { Recorder } from "./writers.ts";

export interface Verdict {
  /** None: all was as promised. */
  readonly problems: readonly string[];
  /** What was checked, a line each. */
  readonly summary: readonly string[];
  readonly waits: readonly Wait[];
}

export interface Happened extends Omit<WaitFacts, "requests"> {
  /** When a region was being drained, or resumed, and nothing else was the matter. */
  readonly drains: readonly { readonly fromMs: number; readonly toMs: number }[];
}

/** Judges a run that is over, in a cluster whose regions are equal. */
export const judge = async (
  cluster: TestCluster,
  recorder: Recorder,
  happened: Happened,
): Promise<Verdict> => {
  const { requests, missed, reads } = recorder;
  const effects = (await Promise.all(cluster.regions.map(effectsOf))).flat();
  const { problems: lost, log } = await judgeStates(cluster, effects);
  const waits = waitsOf({ ...happened, requests });
  return {
    problems: [
      ...problemsOf({ requests, missed }, effects),
      ...lost,
      ...tooLong(waits, happened.withinMs),
      ...whileDrained([...requests, { attempts: reads, waitMs: null }], happened.drains),
    ],
    summary: summaryOf(recorder, { waits, log, effects }),
    waits,
  };
};

interface EffectRow extends Pick<Effect, "xid" | "op" | "table" | "key" | "content"> {
  readonly base: string;
  readonly version: string;
  readonly prev: string;
}

const effectsOf = async (region: TestRegion): Promise<Effect[]> => {
  const rows = await region.sql<EffectRow & Record<string, unknown>>("SELECT * FROM audit.effect ORDER BY n");
  return rows.map((row) => ({
    ...row,
    region: region.name,
    base: BigInt(row.base),
    version: BigInt(row.version),
    prev: BigInt(row.prev),
  }));
};

/**
 * Where one request's new row was made in several regions, and is alike in all: those but the highest. Nothing is lost with
 * one of them, and so none is in the log.
 */
const lowerTwins = (effects: readonly Effect[]): ReadonlySet<Effect> => {
  const made = effects.filter(({ prev, content }) => prev === 0n && content !== null);
  const alike = Map.groupBy(made, ({ table, key, content }) => JSON.stringify([table, key, content]));
  return new Set(
    [...alike.values()].flatMap((twins) => twins.toSorted((a, b) => (below(a, b) ? -1 : 1)).slice(0, -1)),
  );
};

/** That all that was committed stays, was built upon, or is in the log: the convergence suite's judge. */
const judgeStates = async (
  cluster: TestCluster,
  effects: readonly Effect[],
): Promise<{ readonly problems: string[]; readonly log: readonly LogEntry[] }> => {
  const [first] = cluster.regions;
  if (first === undefined) return { problems: [], log: [] };
  const history = new History();
  const twins = lowerTwins(effects);
  for (const transaction of Map.groupBy(effects, ({ region, xid }) => `${region} ${xid}`).values()) {
    const of = Map.groupBy(transaction, (effect) => (twins.has(effect) ? "unknown" : "acknowledged"));
    for (const [outcome, some] of of)
      history.record(
        some.map((effect) => ({ ...effect, kind: effect.content === null ? "tombstone" : "row", seen: [] })),
        outcome,
      );
  }
  const states = allStatesSql(await tombstonesOf(first), "", tables);
  const held = highest(await first.sql<StateRow & Record<string, unknown>>(states));
  const log = await readLog(first, { tables, prefix: "" });
  return { problems: history.problems(held, log), log };
};

/** Regions that are well, one of them drained, have each other's commits in less, also on a machine that is busy. */
const durableWithinMs = 3_000;

/**
 * For maintenance nothing fails. Only who waits less long for further regions may be told that they do not have it yet, when that
 * time is over.
 */
export const whileDrained = (
  requests: readonly Pick<Done, "attempts" | "waitMs">[],
  drains: Happened["drains"],
): string[] =>
  requests.flatMap(({ attempts, waitMs }) =>
    attempts
      .filter(
        ({ status, code, startMs, endMs }) =>
          (status === null || status >= 500) &&
          !(code === "not-durable-yet" && mayBeLate(endMs - startMs, waitMs)) &&
          drains.some(({ fromMs, toMs }) => fromMs <= startMs && endMs <= toMs),
      )
      .map(
        ({ endpoint, status, code, detail }) =>
          `while a region was drained, ${endpoint} answered ${status} ${code} (${detail})`,
      ),
  );

const mayBeLate = (tookMs: number, waitMs: number | null): boolean =>
  waitMs !== null && waitMs < durableWithinMs && tookMs >= waitMs;

const counted = (things: readonly string[]): string =>
  [...Map.groupBy(things, (thing) => thing)]
    .toSorted(([, a], [, b]) => b.length - a.length)
    .map(([thing, all]) => `${all.length} ${thing}`)
    .join(", ") || "none";

const seconds = (ms: number): string => `${(ms / 1000).toFixed(2)} s`;

const summaryOf = (
  { requests, reads }: Recorder,
  {
    waits,
    log,
    effects,
  }: {
    readonly waits: readonly Wait[];
    readonly log: readonly LogEntry[];
    readonly effects: readonly Effect[];
  },
): string[] => {
  const accepted = requests.flatMap((request) => request.accepted ?? []);
  const errors = (attempts: readonly Attempt[]): string =>
    counted(attempts.flatMap(({ code }) => code ?? []));
  const attempts = requests.flatMap((request) => request.attempts);
  const transactions = new Set(requests.flatMap(({ transaction }) => transaction ?? []));
  const committed = requests.filter(
    ({ transaction, ending }) => transaction !== null && ending === "acknowledged",
  );
  const durable = requests.filter((request) => request.durable !== null);
  const slowest = Math.max(0, ...attempts.map(({ startMs, endMs }) => endMs - startMs));
  return [
    `${requests.length} requests, sent ${attempts.length} times (${requests.filter(({ idempotencyKey }) => idempotencyKey !== null).length} with an idempotency key): ` +
      `${accepted.length} accepted (${accepted.filter(({ takeover }) => takeover).length} as takeovers, ${accepted.filter(({ replayed }) => replayed).length} replayed), ` +
      `${counted(requests.map(({ ending }: Done) => ending).filter((ending) => ending !== "acknowledged"))}; longest answer ${seconds(slowest)}`,
    `${transactions.size} of them transactions, ${new Set(committed.map(({ transaction }) => transaction)).size} accepted; ` +
      `${durable.length} to be in further regions: ${counted(durable.map(({ ending }) => ending))}`,
    `errors of writes: ${errors(attempts)}`,
    `${reads.length} reads with sessions, errors: ${errors(reads)}`,
    `${effects.length} effects, ${log.length} conflicts, ${outranked(requests, log)} accepted writes outranked unseen`,
    `${waits.length} deaths; until writes were accepted again: ${waits
      .map(
        ({ death, ms, lane }) =>
          `${death.region} ${death.how} ${seconds(ms)} (at ${lane.endpoint} for ${lane.owner ?? "any"})`,
      )
      .join(", ")}`,
  ];
};
