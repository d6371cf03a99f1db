import type { BenchCase, BenchContext, BenchResult } from "../case.ts";
import { cpuOfProcess, memoryOf } from "../cpu.ts";
import { beatsSchema } from "../lag.ts";
import { openCluster } from "../region.ts";
import { pauseMs } from "../sql.ts";

const settleMs = 5_000;

/** Three regions in which nothing happens for a minute: what each agent takes of a core, and of memory. */
const runIdle = async (context: BenchContext): Promise<BenchResult> => {
  const seconds = Math.max(5, Math.min(60, 60 * context.scale));
  await using cluster = await openCluster(context.servers, { regions: 3, schema: [beatsSchema] });
  const agents = cluster.regions.map(({ agent }) => agent);
  await Promise.all(agents.map((agent) => agent.start()));
  await pauseMs(settleMs);
  const before = agents.map(({ pid }) => cpuOfProcess(pid));
  await pauseMs(seconds * 1000);
  const percent = agents.map(({ pid }, i) => ((cpuOfProcess(pid) - (before[i] ?? 0)) / seconds) * 100);
  const resident = agents.map(({ pid }) => (pid === null ? Number.NaN : memoryOf(pid).nowMiB));
  context.say(`  ${percent.map((each) => `${each.toFixed(2)} %`).join(", ")} of a core`);
  const notes = ["one figure for each of the three agents"];
  return {
    measures: [
      {
        name: "idle-cpu",
        title: "agent idle for a minute, 3 regions",
        unit: "% of a core",
        ours: percent,
        native: [],
        bar: { of: "ours", is: "at most", value: 1, aim: 0.3 },
        notes,
      },
      {
        name: "idle-memory",
        title: "resident memory of an idle agent",
        unit: "MiB",
        ours: resident,
        native: [],
        bar: { of: "ours", is: "at most", value: 120, aim: 90 },
        notes,
      },
    ],
    failures: [],
  };
};

export const idle: BenchCase = { name: "idle", quick: false, run: runIdle };
