import type { BenchCase, BenchContext, BenchResult } from "../case.ts";
import { contentOf } from "../content.ts";
import { beatsSchema, BeatWatcher, BeatWriter, writeAtRate, type Sample } from "../lag.ts";
import { openCluster, type BenchCluster } from "../region.ts";
import { until } from "../sql.ts";
import { quantile } from "../statistics.ts";

const regions = 3;
const connectionsPerRegion = 2;
/** Twelve looks of six pairs of regions a millisecond would be a load of their own. */
const lookEveryMs = 4;

/** Every region's writers, seen in every other region. */
const openBeats = async (cluster: BenchCluster, round: number) => {
  const perRegion = await Promise.all(
    cluster.regions.map(({ server }, region) =>
      Promise.all(
        Array.from({ length: connectionsPerRegion }, (_, i) =>
          BeatWriter.open(server, cluster.database, (round * regions + region) * connectionsPerRegion + i),
        ),
      ),
    ),
  );
  const watchers = await Promise.all(
    cluster.regions.map(({ server }, region) =>
      BeatWatcher.open(
        server.url(cluster.database),
        perRegion.filter((_, other) => other !== region).flat(),
        lookEveryMs,
      ),
    ),
  );
  return {
    // Regions alternate, so that each writes evenly.
    writers: Array.from({ length: connectionsPerRegion }, (_, i) =>
      perRegion.flatMap((all) => all.slice(i, i + 1)),
    ).flat(),
    watchers,
    allSeen: () =>
      until("all is seen everywhere", () => Promise.resolve(watchers.every(({ current }) => current)), {
        timeoutMs: 120_000,
      }),
    end: async () => {
      await Promise.all(watchers.map((watcher) => watcher.end()));
      for (const writer of perRegion.flat()) writer.end();
    },
  };
};

/** Transactions a second, of all regions together, that are written as fast as can be and seen everywhere. */
const machineRate = async (cluster: BenchCluster, transactions: number): Promise<number> => {
  const beats = await openBeats(cluster, 0);
  try {
    const startedAt = performance.now();
    const share = transactions / beats.writers.length;
    await Promise.all(beats.writers.map((writer) => writer.flood(share, 16)));
    await beats.allSeen();
    return transactions / ((performance.now() - startedAt) / 1000);
  } finally {
    await beats.end();
  }
};

interface Half {
  readonly p99: number;
  /** Median lag of the last third less that of the first third. */
  readonly growth: number;
}

const atHalfRate = async (
  cluster: BenchCluster,
  {
    round,
    perSecond,
    seconds,
  }: { readonly round: number; readonly perSecond: number; readonly seconds: number },
): Promise<Half> => {
  const beats = await openBeats(cluster, round);
  const startedAt = performance.now();
  try {
    await writeAtRate(beats.writers, { perSecond, seconds });
    await beats.allSeen();
  } finally {
    await beats.end();
  }
  const samples = beats.watchers.flatMap((watcher) => watcher.samples);
  const third = (k: number): Sample[] =>
    samples.filter(({ atMs }) => Math.min(2, Math.floor(((atMs - startedAt) / seconds) * 0.003)) === k);
  const lags = (of: readonly Sample[]): number[] => of.map(({ lagMs }) => lagMs);
  return {
    p99: quantile(lags([...third(1), ...third(2)]), 0.99),
    growth: quantile(lags(third(2)), 0.5) - quantile(lags(third(0)), 0.5),
  };
};

const runThree = async (context: BenchContext): Promise<BenchResult> => {
  const seconds = Math.max(3, Math.min(12, 12 * Math.sqrt(context.scale)));
  await using cluster = await openCluster(context.servers, { regions, schema: [beatsSchema] });
  await Promise.all(cluster.regions.map(({ agent }) => agent.start()));
  const rate = await machineRate(cluster, context.scaled(30_000, regions * connectionsPerRegion));
  context.say(`  all three together: ${Math.round(rate)} transactions a second`);
  const halves: Half[] = [];
  for (let round = 1; round <= Math.min(context.runs, 3); round += 1) {
    const half = await atHalfRate(cluster, { round, perSecond: rate / 2, seconds });
    context.say(`  at half of it: p99 ${half.p99.toFixed(1)} ms, growth ${half.growth.toFixed(1)} ms`);
    halves.push(half);
  }
  const title = `three regions all writing, ${Math.round(rate / 2)} transactions/s in all`;
  return {
    measures: [
      {
        name: "three-p99",
        title: `${title}: lag p99`,
        unit: "ms",
        ours: halves.map(({ p99 }) => p99),
        native: [],
        bar: { of: "ours", is: "at most", value: 250, aim: 50 },
        notes: [
          `half of ${Math.round(rate)} transactions/s, which is what this machine takes with the load it is measured by`,
        ],
      },
      {
        name: "three-growth",
        title: "the same: median lag of the last third less that of the first",
        unit: "ms",
        ours: halves.map(({ growth }) => growth),
        native: [],
        bar: { of: "ours", is: "at most", value: 25, aim: null },
      },
    ],
    failures: await differing(cluster),
  };
};

const differing = async (cluster: BenchCluster): Promise<string[]> => {
  const contents = await Promise.all(
    cluster.regions.map(({ server }) => contentOf(server, cluster.database, ["beats"])),
  );
  return new Set(contents).size === 1 ? [] : [`three: the regions differ: ${contents.join("; ")}`];
};

export const three: BenchCase = { name: "three", quick: false, run: runThree };
