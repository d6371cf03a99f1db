import { slotName } from "../../../src/postgres/install/names.ts";
import type { BenchCase, BenchContext, BenchResult } from "../case.ts";
import { contentOf } from "../content.ts";
import { cpuOfProcess, cpuOfServer, cpuSpent, type CpuUse } from "../cpu.ts";
import { insertItems, itemsSchema } from "../drains/items.ts";
import { dropSubscription, nativeDatabase, subscribe } from "../native.ts";
import { clusterName, openCluster, regionAt } from "../region.ts";
import {
  connect,
  copySlot,
  createDatabase,
  dropDatabase,
  dropSlot,
  renameDatabase,
  run,
  until,
  withClient,
} from "../sql.ts";

/**
 * A region that has nothing yet gets all rows of another one. Ours: from the start of its agent until nothing is left to be
 * copied; native: from CREATE SUBSCRIPTION until its table is ready. The starts are counted.
 */
interface Joined {
  readonly seconds: number;
  readonly cpu: CpuUse;
}

interface Joining extends AsyncDisposable {
  readonly side: "ours" | "native";
  /** Joins once. */
  once(): Promise<Joined>;
  /** What the joined database holds. */
  content(): Promise<string>;
  readonly wanted: string;
}

const template = "ours_base";
const keptSlot = "bench_kept";
const tables = ["items"];

const openOurs = async ({ servers }: BenchContext, seed: string): Promise<Joining> => {
  const cluster = await openCluster(servers, { regions: 2, schema: [itemsSchema], seed: [seed] });
  const { database } = cluster;
  const { server: source } = regionAt(cluster, 0);
  const { server: target, agent } = regionAt(cluster, 1);
  const slot = slotName(clusterName, 1, 2);
  await withClient(source.url(database), async (client) => {
    await client.query("VACUUM FREEZE ANALYZE");
    await copySlot(client, slot, keptSlot);
  });
  await withClient(target.url(), (client) => dropSlot(client, slotName(clusterName, 2, 1)));
  await renameDatabase(target, database, template);
  const once = async (): Promise<Joined> => {
    await createDatabase(target, database, template);
    await withClient(source.url(database), (client) => copySlot(client, keptSlot, slot));
    await run(target, database, "CHECKPOINT");
    const watching = await connect(target.url(database));
    try {
      const before = { source: cpuOfServer(source.pid), agent: 0, target: cpuOfServer(target.pid) };
      const startedAt = performance.now();
      agent.spawn();
      await until("all is copied", async () => {
        const { rows } = await watching.query<{ copied: boolean }>(
          `SELECT EXISTS (SELECT FROM coregent.progress WHERE origin = 1)
                  AND NOT EXISTS (SELECT FROM coregent.table_sync WHERE origin = 1) AS copied`,
        );
        return rows[0]?.copied === true;
      }).catch(async (error: unknown) => {
        throw new Error(`${String(error)}\n${await agent.tail()}`, { cause: error });
      });
      const seconds = (performance.now() - startedAt) / 1000;
      const after = {
        source: cpuOfServer(source.pid),
        agent: cpuOfProcess(agent.pid),
        target: cpuOfServer(target.pid),
      };
      return { seconds, cpu: cpuSpent(before, after) };
    } finally {
      await watching.end();
      await agent.kill();
    }
  };
  return {
    side: "ours",
    once,
    content: () => contentOf(target, database, tables),
    wanted: await contentOf(source, database, tables),
    [Symbol.asyncDispose]: async () => {
      await cluster[Symbol.asyncDispose]();
      await dropDatabase(target, template);
    },
  };
};

const openNative = async ({ servers }: BenchContext, seed: string): Promise<Joining> => {
  const [source, target] = await Promise.all([servers.get("native-source"), servers.get("native-target")]);
  await createDatabase(source, nativeDatabase);
  await run(
    source,
    nativeDatabase,
    itemsSchema,
    seed,
    "CREATE PUBLICATION bench FOR ALL TABLES",
    "VACUUM FREEZE ANALYZE",
  );
  const leave = async (): Promise<void> => {
    await dropSubscription(target);
    await withClient(source.url(), (client) => dropSlot(client, "bench_run"));
  };
  const once = async (): Promise<Joined> => {
    await createDatabase(target, nativeDatabase);
    await run(target, nativeDatabase, itemsSchema, "CHECKPOINT");
    const watching = await connect(target.url(nativeDatabase));
    try {
      const before = { source: cpuOfServer(source.pid), agent: 0, target: cpuOfServer(target.pid) };
      const startedAt = performance.now();
      await subscribe({ source, target }, ["slot_name = bench_run"]);
      await until("all is copied", async () => {
        const { rowCount } = await watching.query("SELECT FROM pg_subscription_rel WHERE srsubstate <> 'r'");
        return rowCount === 0;
      });
      const seconds = (performance.now() - startedAt) / 1000;
      const after = { source: cpuOfServer(source.pid), agent: 0, target: cpuOfServer(target.pid) };
      return { seconds, cpu: cpuSpent(before, after) };
    } finally {
      await watching.end();
      await leave();
    }
  };
  return {
    side: "native",
    once,
    content: () => contentOf(target, nativeDatabase, tables),
    wanted: await contentOf(source, nativeDatabase, tables),
    [Symbol.asyncDispose]: async () => {
      await dropDatabase(source, nativeDatabase);
      await dropDatabase(target, nativeDatabase);
    },
  };
};

const runJoin = async (context: BenchContext): Promise<BenchResult> => {
  const rows = context.scaled(1_000_000);
  const seed = insertItems(1, rows);
  await using ours = await openOurs(context, seed);
  await using native = await openNative(context, seed);
  const rates = { ours: [] as number[], native: [] as number[] };
  const uses = { ours: [] as CpuUse[], native: [] as CpuUse[] };
  const failures: string[] = [];
  for (let i = -context.warmUps; i < Math.min(context.runs, 3); i += 1) {
    for (const joining of [ours, native]) {
      const { side, wanted } = joining;
      const { seconds, cpu } = await joining.once();
      context.say(
        `  ${side.padEnd(12)} ${seconds.toFixed(2)} s, ${Math.round(rows / seconds)} rows/s; CPU s: source ` +
          `${cpu.source.toFixed(2)}, agent ${cpu.agent.toFixed(2)}, target ${cpu.target.toFixed(2)}`,
      );
      const content = await joining.content();
      if (content !== wanted) failures.push(`join, ${side}: ${content}; at the source: ${wanted}`);
      if (i < 0) continue;
      rates[side].push(rows / seconds);
      uses[side].push(cpu);
    }
  }
  const bar = { of: "ratio", is: "at least", value: 0.7, aim: 1 } as const;
  const cpu = (["ours", "native"] as const).map((side) => ({
    name: "join",
    side,
    changes: rows,
    uses: uses[side],
  }));
  const title = "join of 1,000,000 rows against native initial copy";
  return { measures: [{ name: "join", title, unit: "rows/s", ...rates, bar }], cpu, failures };
};

export const join: BenchCase = { name: "join", quick: false, run: runJoin };
