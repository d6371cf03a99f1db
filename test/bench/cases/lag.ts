import type { BenchServer } from "../bench-server.ts";
import type { BenchCase, BenchContext, BenchResult } from "../case.ts";
import { contentOf } from "../content.ts";
import { beatsSchema, BeatWatcher, BeatWriter, writeAtRate } from "../lag.ts";
import { dropSubscription, nativeDatabase, subscribe } from "../native.ts";
import { openCluster, regionAt } from "../region.ts";
import { createDatabase, dropDatabase, run, until } from "../sql.ts";
import { median, quantile } from "../statistics.ts";

const connections = 8;
const perSecond = 1_000;

interface Place {
  readonly side: "ours" | "native";
  readonly source: BenchServer;
  readonly target: BenchServer;
  readonly database: string;
}

interface Lag {
  readonly p50: number;
  readonly p99: number;
}

const measureLag = async (
  { source, target, database }: Place,
  { round, seconds }: { readonly round: number; readonly seconds: number },
): Promise<Lag> => {
  const ids = Array.from({ length: connections }, (_, i) => round * connections + i);
  const writers = await Promise.all(ids.map((id) => BeatWriter.open(source, database, id)));
  const watcher = await BeatWatcher.open(target.url(database), writers);
  try {
    await writeAtRate(writers, { perSecond, seconds });
    await until("all is seen at the target", () => Promise.resolve(watcher.current), { timeoutMs: 60_000 });
  } finally {
    await watcher.end();
    for (const writer of writers) writer.end();
  }
  // The first rows find sessions, plans and code cold.
  const settledAt = (watcher.samples[0]?.atMs ?? 0) + seconds * 200;
  const lags = watcher.samples.filter(({ atMs }) => atMs >= settledAt).map(({ lagMs }) => lagMs);
  return { p50: quantile(lags, 0.5), p99: quantile(lags, 0.99) };
};

const openNative = async ({ servers }: BenchContext): Promise<Place & AsyncDisposable> => {
  const [source, target] = await Promise.all([servers.get("native-source"), servers.get("native-target")]);
  for (const server of [source, target]) {
    await createDatabase(server, nativeDatabase);
    await run(server, nativeDatabase, beatsSchema);
  }
  await run(source, nativeDatabase, "CREATE PUBLICATION bench FOR ALL TABLES");
  await subscribe({ source, target }, ["copy_data = false"]);
  return {
    side: "native",
    source,
    target,
    database: nativeDatabase,
    [Symbol.asyncDispose]: async () => {
      await dropSubscription(target);
      await dropDatabase(source, nativeDatabase);
      await dropDatabase(target, nativeDatabase);
    },
  };
};

const runLag = async (context: BenchContext): Promise<BenchResult> => {
  const seconds = Math.max(2, Math.min(6, 6 * Math.sqrt(context.scale)));
  await using cluster = await openCluster(context.servers, { regions: 2, schema: [beatsSchema] });
  await Promise.all(cluster.regions.map(({ agent }) => agent.start()));
  await using native = await openNative(context);
  const places: readonly Place[] = [
    {
      side: "ours",
      source: regionAt(cluster, 0).server,
      target: regionAt(cluster, 1).server,
      database: cluster.database,
    },
    native,
  ];
  const lags = { ours: [] as Lag[], native: [] as Lag[] };
  for (let i = -context.warmUps; i < context.runs; i += 1) {
    for (const place of places) {
      const lag = await measureLag(place, { round: i + context.warmUps, seconds });
      context.say(`  ${place.side.padEnd(12)} p50 ${lag.p50.toFixed(2)} ms, p99 ${lag.p99.toFixed(2)} ms`);
      if (i >= 0) lags[place.side].push(lag);
    }
  }
  return { measures: measuresOf(lags), failures: await differing(places) };
};

const measuresOf = (lags: Readonly<Record<"ours" | "native", readonly Lag[]>>): BenchResult["measures"] => {
  const of = (name: keyof Lag) => ({
    unit: "ms",
    ours: lags.ours.map((lag) => lag[name]),
    native: lags.native.map((lag) => lag[name]),
  });
  return [
    {
      ...of("p50"),
      name: "lag-p50",
      title: `lag at ${perSecond} transactions/s, commit to visible elsewhere: half of them within`,
      bar: { of: "difference", is: "at most", value: 1, aim: null },
    },
    {
      ...of("p99"),
      name: "lag-p99",
      title: "the same: 99 of 100 within",
      bar: { of: "ours", is: "at most", value: 10, aim: median(lags.native.map(({ p99 }) => p99)) },
    },
  ];
};

const differing = async (places: readonly Place[]): Promise<string[]> => {
  const failures: string[] = [];
  for (const { side, source, target, database } of places) {
    const [wanted, found] = [
      await contentOf(source, database, ["beats"]),
      await contentOf(target, database, ["beats"]),
    ];
    if (wanted !== found) failures.push(`lag, ${side}: ${found}; at the source: ${wanted}`);
  }
  return failures;
};

export const lag: BenchCase = { name: "lag", quick: true, run: runLag };
