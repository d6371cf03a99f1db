import type { BenchCase, BenchContext, BenchResult } from "../case.ts";
import { contentOf } from "../content.ts";
import { drainOnce, writeBacklog } from "../drains/drain-once.ts";
import { insertItems, itemsSchema } from "../drains/items.ts";
import { prepareOurs } from "../drains/ours.ts";

/** The highest resident memory of an agent that drains one huge transaction, as the system counts it (VmHWM). */
const runMemory = async (context: BenchContext): Promise<BenchResult> => {
  const rows = context.scaled(1_000_000);
  const sized = { seed: [], backlog: [insertItems(1, rows)] };
  await using prepared = await prepareOurs(context.servers, { schema: itemsSchema }, sized);
  await writeBacklog(prepared, sized);
  const wanted = await contentOf(prepared.source, prepared.database, ["items"]);
  const peaks: number[] = [];
  const failures: string[] = [];
  for (let i = 0; i < Math.min(context.runs, 2); i += 1) {
    for (const consumer of prepared.consumers) {
      const { peakMiB, content, seconds } = await drainOnce(prepared, consumer, ["items"]);
      context.say(`  peak ${Math.round(peakMiB ?? 0)} MiB, ${seconds.toFixed(2)} s`);
      peaks.push(peakMiB ?? Number.NaN);
      if (content !== wanted) failures.push(`memory: ${content}; at the source: ${wanted}`);
    }
  }
  const bar = { of: "ours", is: "at most", value: 256, aim: 160 } as const;
  const title = "peak memory of an agent through a transaction of 1,000,000 rows";
  return { measures: [{ name: "memory-peak", title, unit: "MiB", ours: peaks, native: [], bar }], failures };
};

export const memory: BenchCase = { name: "memory-peak", quick: false, run: runMemory };
