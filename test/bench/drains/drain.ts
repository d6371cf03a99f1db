import type { BenchCase, BenchContext, BenchResult, CpuLine, Side } from "../case.ts";
import { contentOf } from "../content.ts";
import { cpuOfProcess, cpuOfServer, type CpuUse } from "../cpu.ts";
import { median } from "../statistics.ts";
import { connect, copySlot, createDatabase, run, until, withClient } from "../sql.ts";
import type { Consumer, Prepared } from "./consumer.ts";
import { prepareNative } from "./native.ts";
import { prepareOurs } from "./ours.ts";
import { marker, setMarker, type SizedWorkload, type Workload } from "./workload.ts";

interface Drained {
  /** From the moment at which the consumer's walsender holds the slot until the last transaction is visible. */
  readonly seconds: number;
  /** Before that: from the consumer's start. */
  readonly startUpSeconds: number;
  readonly cpu: CpuUse;
  readonly content: string;
}

const writeBacklog = async ({ source, database }: Prepared, { backlog }: SizedWorkload): Promise<void> => {
  // The writing is not what is measured. One commit is flushed at the end, and a checkpoint leaves the source quiet.
  await withClient(source.url(database), async (client) => {
    await client.query("SET synchronous_commit = off");
    for (const sql of backlog) await client.query(sql);
  });
  await run(source, database, setMarker(marker.written), "CHECKPOINT");
};

/** The target as before, the slot as before; nothing else of the last run is left. */
const reset = async ({ source, target, database, keptSlot }: Prepared, consumer: Consumer): Promise<void> => {
  await createDatabase(target, consumer.targetDatabase, consumer.template);
  await withClient(source.url(database), (client) => copySlot(client, keptSlot, consumer.slot));
  await consumer.ready();
  await run(target, consumer.targetDatabase, "CHECKPOINT");
};

const drainOnce = async (
  prepared: Prepared,
  consumer: Consumer,
  tables: readonly string[],
): Promise<Drained> => {
  const { source, target, database } = prepared;
  await reset(prepared, consumer);
  const atSource = await connect(source.url(database));
  const atTarget = await connect(target.url(consumer.targetDatabase));
  const ourPids = [await backendOf(atSource), await backendOf(atTarget)];
  const cpu = (): CpuUse => ({
    source: cpuOfServer(source.pid, ourPids),
    agent: cpuOfProcess(consumer.pid()),
    target: cpuOfServer(target.pid, ourPids),
  });
  try {
    const enabledAt = performance.now();
    await consumer.start();
    await until("the consumer has taken the slot", () => slotTaken(atSource, consumer.slot), { everyMs: 1 });
    const startedAt = performance.now();
    const before = cpu();
    await until("the backlog is at the target", () => hasMarker(atTarget)).catch(async (error: unknown) => {
      throw new Error(`${consumer.side}: ${String(error)}\n${await consumer.explain()}`, { cause: error });
    });
    const endedAt = performance.now();
    const after = cpu();
    return {
      seconds: (endedAt - startedAt) / 1000,
      startUpSeconds: (startedAt - enabledAt) / 1000,
      cpu: {
        source: after.source - before.source,
        agent: after.agent - before.agent,
        target: after.target - before.target,
      },
      content: await contentOf(target, consumer.targetDatabase, tables),
    };
  } finally {
    await Promise.all([atSource.end(), atTarget.end()]);
    await consumer.stop();
  }
};

type Client = Awaited<ReturnType<typeof connect>>;

const backendOf = async (client: Client): Promise<number> =>
  (await client.query<{ pid: number }>("SELECT pg_backend_pid() AS pid")).rows[0]?.pid ?? 0;

const slotTaken = async (client: Client, slot: string): Promise<boolean> => {
  const { rowCount } = await client.query({
    name: "taken",
    text: "SELECT FROM pg_replication_slots WHERE slot_name = $1 AND active",
    values: [slot],
  });
  return rowCount === 1;
};

const hasMarker = async (client: Client): Promise<boolean> => {
  const { rowCount } = await client.query({
    name: "marker",
    text: "SELECT FROM marker WHERE id = $1",
    values: [marker.written],
  });
  return rowCount === 1;
};

const sayRun = (context: BenchContext, side: Side, rate: number, drained: Drained): void => {
  const { source, agent, target } = drained.cpu;
  const startUp = drained.startUpSeconds.toFixed(2);
  context.say(
    `  ${side.padEnd(12)} ${drained.seconds.toFixed(2)} s, ${Math.round(rate)}/s; CPU s: source ${source.toFixed(2)}, ` +
      `agent ${agent.toFixed(2)}, target ${target.toFixed(2)}; start-up ${startUp} s`,
  );
};

const runWorkload = async (workload: Workload, context: BenchContext): Promise<BenchResult> => {
  const sized = workload.at(context);
  const both = [
    await prepareOurs(context.servers)(workload, sized),
    await prepareNative(context.servers)(workload, sized),
  ];
  const wanted = await Promise.all(
    both.map(async (prepared) => {
      await writeBacklog(prepared, sized);
      return await contentOf(prepared.source, prepared.database, workload.tables);
    }),
  );
  if (new Set(wanted).size > 1) throw new Error(`the sources hold different rows:\n${wanted.join("\n")}`);

  const rates = new Map<Side, number[]>();
  const cpu = new Map<Side, CpuUse[]>();
  const startUps = new Map<Side, number[]>();
  const failures: string[] = [];
  for (let i = -context.warmUps; i < context.runs; i += 1) {
    for (const prepared of both) {
      for (const consumer of prepared.consumers) {
        const drained = await drainOnce(prepared, consumer, workload.tables);
        const { side } = consumer;
        const rate = sized.counted / drained.seconds;
        sayRun(context, side, rate, drained);
        if (drained.content !== wanted[0]) {
          failures.push(`${workload.name}, ${side}: ${drained.content}; at the source: ${wanted[0]}`);
          context.say(`  WRONG: ${failures.at(-1)}`);
        }
        if (i < 0) continue;
        rates.set(side, [...(rates.get(side) ?? []), rate]);
        cpu.set(side, [...(cpu.get(side) ?? []), drained.cpu]);
        startUps.set(side, [...(startUps.get(side) ?? []), drained.startUpSeconds]);
      }
    }
  }
  const lines = [...cpu].map(([side, uses]): CpuLine => ({
    name: workload.name,
    side,
    changes: sized.changes,
    uses,
  }));
  const note = [...startUps].map(([side, seconds]) => `${side} ${median(seconds).toFixed(2)} s`).join(", ");
  return {
    measures: [
      {
        name: workload.name,
        title: workload.title,
        unit: workload.unit,
        ours: rates.get("ours") ?? [],
        native: rates.get("native") ?? [],
        nativeBinary: rates.get("nativeBinary") ?? [],
        bar: workload.bar,
        notes: [`start-up, not counted: ${note}`],
      },
    ],
    cpu: lines,
    failures,
  };
};

export const drainCase = (workload: Workload): BenchCase => ({
  name: workload.name,
  run: (context) => runWorkload(workload, context),
});
