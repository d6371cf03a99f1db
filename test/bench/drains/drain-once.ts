import type { Client } from "pg";
import type { AgentProcess } from "../../../src/testing/agent-process.ts";
import { contentOf } from "../content.ts";
import { slotCopyName } from "../../../src/postgres/install/names.ts";
import { cpuOfProcess, cpuOfServer, cpuSpent, memoryOf, type CpuUse } from "../cpu.ts";
import { backendOf, connect, copySlot, run, until, withClient } from "../sql.ts";
import type { Consumer, Prepared } from "./consumer.ts";
import { marker, setMarker, type SizedWorkload } from "./workload.ts";

export interface Drained {
  /** From the moment at which the consumer begins to read, from the slot or a copy of it, until the last transaction is visible. */
  readonly seconds: number;
  /** Before that: from the consumer's start. */
  readonly startUpSeconds: number;
  readonly cpu: CpuUse;
  /** Null where all work is done inside the servers. */
  readonly peakMiB: number | null;
  /** As {@link contentOf} gives it for the source. */
  readonly content: string;
}

/** Native takes a minute for the slowest backlog where the machine is free. */
const maxDrainMs = 900_000;

export const writeBacklog = async (
  { source, database, sourceAgent }: Prepared,
  { backlog }: Pick<SizedWorkload, "backlog">,
): Promise<void> => {
  if (sourceAgent !== null) await startAtSource(sourceAgent, source.url(database));
  // The writing is not what is measured. One commit is flushed at the end, and a checkpoint leaves the source quiet.
  await withClient(source.url(database), async (client) => {
    await client.query("SET synchronous_commit = off");
    for (const sql of backlog) await client.query(sql);
  });
  await run(source, database, setMarker(marker.written));
  await sourceAgent?.stop();
  await run(source, database, "CHECKPOINT");
};

/** It is not ready, as its peer is away, but at work. */
const startAtSource = async (agent: AgentProcess, url: string): Promise<void> => {
  agent.spawn();
  const observes = `SELECT FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'coregent observe %'`;
  await withClient(url, (client) =>
    until("the source's agent is at work", async () => (await client.query(observes)).rowCount === 1, {
      timeoutMs: 30_000,
    }),
  ).catch(async (error: unknown) => {
    throw new Error(await agent.tail(), { cause: error });
  });
};

/** The target as before, the slot as before; nothing else of the last run is left. */
const reset = async ({ source, target, database, keptSlot }: Prepared, consumer: Consumer): Promise<void> => {
  await consumer.reset();
  await withClient(source.url(database), (client) => copySlot(client, keptSlot, consumer.slot));
  await run(target, consumer.targetDatabase, "CHECKPOINT");
};

/** Ours reads a backlog from a copy of the slot first (src/replication/backlog.ts): with that its work begins. */
const slotTaken = async (client: Client, slot: string): Promise<boolean> => {
  const { rowCount } = await client.query({
    name: "taken",
    text: `SELECT FROM pg_replication_slots
            WHERE (slot_name = $1 AND active) OR slot_name = $2`,
    values: [slot, slotCopyName(slot)],
  });
  return (rowCount ?? 0) > 0;
};

const hasBacklog = async (client: Client): Promise<boolean> => {
  const { rowCount } = await client.query({
    name: "marker",
    text: "SELECT FROM marker WHERE id = $1",
    values: [marker.written],
  });
  return rowCount === 1;
};

/** One run of one consumer over the backlog. */
export const drainOnce = async (
  prepared: Prepared,
  consumer: Consumer,
  tables: readonly string[],
): Promise<Drained> => {
  const { source, target, database } = prepared;
  await reset(prepared, consumer);
  const atSource = await connect(source.url(database));
  const atTarget = await connect(target.url(consumer.targetDatabase));
  const measuring = [await backendOf(atSource), await backendOf(atTarget)];
  const servers = (): Omit<CpuUse, "agent"> => ({
    source: cpuOfServer(source.pid, measuring),
    target: cpuOfServer(target.pid, measuring),
  });
  try {
    // The servers are idle until they are asked; a process that starts is not.
    const serversBefore = servers();
    const enabledAt = performance.now();
    await consumer.start();
    await until("the consumer has taken the slot", () => slotTaken(atSource, consumer.slot), {
      everyMs: 1,
      timeoutMs: 60_000,
    });
    const startedAt = performance.now();
    const before = { ...serversBefore, agent: cpuOfProcess(consumer.pid()) };
    await until("the backlog is at the target", () => hasBacklog(atTarget), { timeoutMs: maxDrainMs });
    const endedAt = performance.now();
    const pid = consumer.pid();
    return {
      seconds: (endedAt - startedAt) / 1000,
      startUpSeconds: (startedAt - enabledAt) / 1000,
      cpu: cpuSpent(before, { ...servers(), agent: cpuOfProcess(pid) }),
      peakMiB: pid === null ? null : memoryOf(pid).peakMiB,
      content: await contentOf(target, consumer.targetDatabase, tables),
    };
  } catch (error) {
    throw new Error(`${consumer.side}: ${String(error)}\n${await consumer.explain()}`, { cause: error });
  } finally {
    await Promise.all([atSource.end(), atTarget.end()]);
    await consumer.stop();
  }
};
