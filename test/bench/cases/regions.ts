import type { Client } from "pg";
import type { BenchCase, BenchContext, BenchResult, CpuLine } from "../case.ts";
import { contentOf } from "../content.ts";
import { cpuOfProcess, cpuOfServer, cpuSpent, type CpuUse } from "../cpu.ts";
import { itemColumns, itemsSchema, itemValues } from "../drains/items.ts";
import { inTransactions, marker, markerSchema, setMarker } from "../drains/workload.ts";
import { openCluster, type BenchCluster } from "../region.ts";
import { backendOf, connect, until } from "../sql.ts";

const rowsPerTransaction = 10;

/** Of the region that writes, and the mean of those that receive. `without`: backends that write or measure. */
const cpuNow = ({ regions }: BenchCluster, without: readonly number[]): CpuUse => {
  const [source, ...targets] = regions;
  const mean = (of: readonly number[]): number => of.reduce((sum, each) => sum + each, 0) / of.length;
  return {
    source: cpuOfServer(source?.server.pid ?? null, without),
    agent: mean(targets.map(({ agent }) => cpuOfProcess(agent.pid))),
    target: mean(targets.map(({ server }) => cpuOfServer(server.pid, without))),
  };
};

/** The agents stand still while region a writes, and then merge at once: what they get is a backlog in each run. */
const spend = async (
  cluster: BenchCluster,
  clients: readonly Client[],
  run: { from: number; to: number },
) => {
  const [writer, ...others] = clients;
  const targets = cluster.regions.slice(1);
  for (const { agent } of targets) agent.pause();
  const without = await Promise.all(clients.map(backendOf));
  const before = cpuNow(cluster, without);
  const values = itemValues("m");
  const first = `${run.from} + (n - 1) * ${rowsPerTransaction}`;
  const insert = `INSERT INTO items (${itemColumns}) SELECT ${values}
    FROM generate_series(${first}, ${first} + ${rowsPerTransaction - 1}) AS m;`;
  await writer?.query("SET synchronous_commit = off");
  await writer?.query(inTransactions((run.to - run.from + 1) / rowsPerTransaction, insert));
  await writer?.query("SET synchronous_commit = on");
  await writer?.query(setMarker(run.to));
  for (const { agent } of targets) agent.resume();
  await Promise.all(
    others.map((client) =>
      until(
        "all is at the target",
        async () => {
          const found = await client.query("SELECT FROM marker WHERE id = $1", [run.to]);
          return found.rowCount === 1;
        },
        { everyMs: 20 },
      ),
    ),
  );
  return cpuSpent(before, cpuNow(cluster, without));
};

const measure = async (
  context: BenchContext,
  regions: number,
): Promise<{ line: CpuLine; failures: string[] }> => {
  const rows = context.scaled(100_000, rowsPerTransaction);
  await using cluster = await openCluster(context.servers, { regions, schema: [itemsSchema, markerSchema] });
  const { database } = cluster;
  await Promise.all(cluster.regions.map(({ agent }) => agent.start()));
  const clients = await Promise.all(cluster.regions.map(({ server }) => connect(server.url(database))));
  const uses: CpuUse[] = [];
  const runs = Math.min(context.runs, 3);
  try {
    for (let i = -context.warmUps; i < runs; i += 1) {
      const from = (i + context.warmUps) * rows + marker.written + 1;
      const use = await spend(cluster, clients, { from, to: from + rows - 1 });
      if (i >= 0) uses.push(use);
    }
  } finally {
    for (const { agent } of cluster.regions) agent.resume();
    await Promise.all(clients.map((client) => client.end()));
  }
  const contents = await Promise.all(
    cluster.regions.map(({ server }) => contentOf(server, database, ["items"])),
  );
  const failures = new Set(contents).size === 1 ? [] : [`${regions} regions differ: ${contents.join("; ")}`];
  return { line: { name: `cpu-regions`, side: `${regions} regions`, changes: rows, uses }, failures };
};

/** One region writes, all others receive: what a change costs at its source, and at each target. */
const runRegions = async (context: BenchContext): Promise<BenchResult> => {
  const cpu: CpuLine[] = [];
  const failures: string[] = [];
  for (const regions of [2, 3, 6]) {
    const measured = await measure(context, regions);
    cpu.push(measured.line);
    failures.push(...measured.failures);
  }
  return { measures: [], cpu, failures };
};

export const cpuRegions: BenchCase = { name: "cpu-regions", quick: false, run: runRegions };
