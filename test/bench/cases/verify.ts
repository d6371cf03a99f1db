import { runCoregent } from "../../../src/testing/program.ts";
import type { BenchCase, BenchContext, BenchResult } from "../case.ts";
import { insertItems, itemsSchema } from "../drains/items.ts";
import { openCluster, type BenchRegion } from "../region.ts";
import { until, withClient } from "../sql.ts";

interface VerifyJson {
  readonly verdict: string;
  readonly tables: readonly {
    readonly name: string;
    readonly regions: Readonly<Record<string, { readonly rows: number | string }>>;
  }[];
}

const copied = ({ server }: BenchRegion, database: string): Promise<void> =>
  withClient(server.url(database), (client) =>
    until(
      "the region has joined",
      async () => {
        const { rows } = await client.query<{ left: number; streams: number }>(
          `SELECT (SELECT count(*) FROM coregent.table_sync)::int AS left, (SELECT count(*) FROM coregent.progress)::int AS streams`,
        );
        return rows[0]?.left === 0 && rows[0].streams === 2;
      },
      { everyMs: 100 },
    ),
  );

/** `coregent verify` as users run it, its start counted, over three regions that hold the same. */
const runVerify = async (context: BenchContext): Promise<BenchResult> => {
  const rows = context.scaled(1_000_000);
  const cluster = await openCluster(context.servers, {
    regions: 3,
    schema: [itemsSchema],
    seed: [insertItems(1, rows)],
  });
  await using _cluster = cluster;
  await Promise.all(cluster.regions.map(({ agent }) => agent.start()));
  await Promise.all(cluster.regions.map((region) => copied(region, cluster.database)));
  for (const { server } of cluster.regions) {
    await withClient(server.url(cluster.database), (client) => client.query("VACUUM ANALYZE"));
  }
  const seconds: number[] = [];
  const failures: string[] = [];
  for (let i = -context.warmUps; i < context.runs; i += 1) {
    const startedAt = performance.now();
    const args = ["verify", "--json", "--config", cluster.configFile];
    const { code, stdout, stderr } = await runCoregent(args, {
      cwd: context.servers.folder,
      timeoutMs: 300_000,
    });
    const took = (performance.now() - startedAt) / 1000;
    context.say(`  ${took.toFixed(2)} s`);
    if (code !== 0) failures.push(`verify ended with ${code}: ${stderr}${stdout.slice(0, 2000)}`);
    else failures.push(...misjudged(JSON.parse(stdout) as VerifyJson, rows));
    if (i >= 0) seconds.push(took);
  }
  const bar = { of: "ours", is: "at most", value: 10, aim: 3 } as const;
  const title = "verify, 1,000,000 rows in each of 3 regions";
  return { measures: [{ name: "verify", title, unit: "s", ours: seconds, native: [], bar }], failures };
};

const misjudged = (report: VerifyJson, rows: number): string[] => {
  const items = report.tables.find(({ name }) => name === "public.items");
  const counts = Object.values(items?.regions ?? {}).map((region) => Number(region.rows));
  if (report.verdict === "equal" && counts.length === 3 && counts.every((count) => count === rows)) return [];
  return [`verify says ${report.verdict} of ${counts.join(", ")} rows`];
};

export const verify: BenchCase = { name: "verify", quick: false, run: runVerify };
