import type { BenchCase, BenchContext, BenchResult, Side } from "../case.ts";
import { contentOf } from "../content.ts";
import { median } from "../statistics.ts";
import type { Prepared } from "./consumer.ts";
import { preparePglogical } from "../peers/pglogical.ts";
import { drainOnce, writeBacklog, type Drained } from "./drain-once.ts";
import { prepareNative } from "./native.ts";
import { prepareOurs } from "./ours.ts";
import type { SizedWorkload, Workload } from "./workload.ts";

const runText = (side: Side, rate: number, { seconds, cpu, peakMiB, startUpSeconds }: Drained): string => {
  const peak = peakMiB === null ? "" : `, agent's peak ${Math.round(peakMiB)} MiB`;
  return (
    `  ${side.padEnd(12)} ${seconds.toFixed(2)} s, ${Math.round(rate)}/s; CPU s: source ${cpu.source.toFixed(2)}, ` +
    `agent ${cpu.agent.toFixed(2)}, target ${cpu.target.toFixed(2)}; start-up ${startUpSeconds.toFixed(2)} s${peak}`
  );
};

/** Writes the backlog at every source. @returns what all of them hold then, told the same way */
const writeAll = async (
  all: readonly Prepared[],
  sized: SizedWorkload,
  tables: readonly string[],
): Promise<string> => {
  const contents: string[] = [];
  for (const prepared of all) {
    await writeBacklog(prepared, sized);
    contents.push(await contentOf(prepared.source, prepared.database, tables));
  }
  if (new Set(contents).size > 1) throw new Error(`the sources hold different rows:\n${contents.join("\n")}`);
  return contents[0] ?? "";
};

/** A consumer that takes so long is not asked as often, and its first run counts: beside that, being cold is nothing. */
const slowSeconds = 20;
const slowRuns = (side: Side): number => (side === "ours" || side === "native" ? 2 : 1);

const runWorkload = async (workload: Workload, context: BenchContext): Promise<BenchResult> => {
  const sized = workload.at(context);
  await using ours = await prepareOurs(context.servers, workload, sized);
  await using native = await prepareNative(context.servers, workload, sized);
  await using pglogical = context.peers
    ? await preparePglogical(context.servers.folder, workload, sized)
    : null;
  const all = [ours, native, ...(pglogical === null ? [] : [pglogical])];
  const wanted = await writeAll(all, sized, workload.tables);
  const drains = new Map<Side, Drained[]>();
  const failures: string[] = [];
  for (let i = -context.warmUps; i < context.runs; i += 1) {
    for (const prepared of all) {
      for (const consumer of prepared.consumers) {
        const { side } = consumer;
        const before = drains.get(side) ?? [];
        if (before.length >= slowRuns(side) && before.some(({ seconds }) => seconds > slowSeconds)) continue;
        const drained = await drainOnce(prepared, consumer, workload.tables);
        context.say(runText(side, sized.counted / drained.seconds, drained));
        if (drained.content !== wanted) {
          failures.push(`${workload.name}, ${side}: ${drained.content}; at the source: ${wanted}`);
        }
        if (i >= 0 || drained.seconds > slowSeconds) drains.set(side, [...before, drained]);
      }
    }
  }
  return { ...results(workload, sized, drains), failures };
};

const results = (
  workload: Workload,
  { counted, changes }: SizedWorkload,
  drains: ReadonlyMap<Side, readonly Drained[]>,
): Omit<BenchResult, "failures"> => {
  const rates = (side: Side): number[] => (drains.get(side) ?? []).map(({ seconds }) => counted / seconds);
  const startUps = [...drains].map(
    ([side, all]) => `${side} ${median(all.map((each) => each.startUpSeconds)).toFixed(2)} s`,
  );
  return {
    measures: [
      {
        name: workload.name,
        title: workload.title,
        unit: workload.unit,
        ours: rates("ours"),
        native: rates("native"),
        nativeBinary: rates("nativeBinary"),
        pglogical: rates("pglogical"),
        bar: workload.bar,
        notes: [`start-up, not counted: ${startUps.join(", ")}`],
      },
    ],
    cpu: [...drains].map(([side, all]) => ({
      name: workload.name,
      side,
      changes,
      uses: all.map(({ cpu }) => cpu),
    })),
  };
};

export const drainCase = (workload: Workload): BenchCase => ({
  name: workload.name,
  quick: workload.bar?.aim !== null,
  run: (context) => runWorkload(workload, context),
});
