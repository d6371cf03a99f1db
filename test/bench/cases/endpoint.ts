import type { Bar, BenchCase, BenchContext, BenchResult, Measure } from "../case.ts";
import { cpuOfProcess, cpuOfServer } from "../cpu.ts";
import { insertItems, itemsSchema } from "../drains/items.ts";
import { type LoadPlan, type LoadReport, pageRows, runLoad, type Work } from "../endpoint/plan.ts";
import { wrongItems } from "../endpoint/rows.ts";
import { type BenchRegion, openCluster, regionAt } from "../region.ts";
import { median } from "../statistics.ts";

/**
 * Rows one by one: through the HTTP endpoint and the PostgreSQL entrance of an agent, and straight to the same
 * database. What makes the load is a process of its own each time.
 */

const connections = 32;
const seeded = 20_000;

/** Two regions, of which one has an agent: what others merge is not measured here. */
const open = (context: BenchContext) =>
  openCluster(context.servers, {
    regions: 2,
    schema: [itemsSchema],
    seed: [insertItems(1, seeded), "VACUUM ANALYZE items"],
    entrance: true,
    // One address sends all of it.
    endpoint: { requestsPerSecond: 1_000_000 },
  });

const ways = ["endpoint", "entrance", "direct"] as const;
type Way = (typeof ways)[number];

/** One agent, and how many rows its table holds. */
class Room {
  readonly #region: BenchRegion;
  readonly #database: string;
  readonly #context: BenchContext;
  #last = seeded;
  readonly failures: string[] = [];

  constructor(context: BenchContext, region: BenchRegion, database: string) {
    this.#context = context;
    this.#region = region;
    this.#database = database;
  }

  /** Makes the load and looks at what is there then. */
  async load(way: Way, load: { work: Work; count: number; perSecond?: number }): Promise<LoadReport> {
    const { work, count, perSecond = null } = load;
    const { server, agent } = this.#region;
    const writes = work === "insert" || work === "insertMinimal";
    const warmUp = Math.ceil(count / 10);
    const plan: LoadPlan = {
      port: this.#portOf(way),
      database: this.#database,
      connections,
      work,
      from: writes ? this.#last + 1 : 1,
      warmUp,
      count,
      perSecond,
    };
    const before = { agent: cpuOfProcess(agent.pid), server: cpuOfServer(server.pid) };
    const report = await runLoad(way === "endpoint" ? "http-load" : "pg-load", plan);
    const all = warmUp + count;
    const each = (seconds: number, of: number): string => ((seconds / of) * 1e6).toFixed(0);
    const rate = Math.round(count / report.seconds);
    this.#context.say(
      `  ${work}, ${way}: ${rate}/s, p50 ${report.p50Ms.toFixed(2)} ms, p99 ${report.p99Ms.toFixed(2)} ms; ` +
        `CPU us each: load ${each(report.cpuSeconds, count)}, agent ${each(cpuOfProcess(agent.pid) - before.agent, all)}, ` +
        `server ${each(cpuOfServer(server.pid) - before.server, all)}`,
    );
    if (writes) this.#last += all;
    const wrong = await wrongItems(server, this.#database, this.#last);
    this.failures.push(...[...report.failures, ...wrong].map((what) => `${work}, ${way}: ${what}`));
    return report;
  }

  #portOf(way: Way): number {
    const { server, apiPort, entrancePort } = this.#region;
    return { endpoint: apiPort, entrance: entrancePort ?? 0, direct: server.port }[way];
  }
}

interface Compared {
  readonly name: string;
  readonly title: string;
  readonly way: "endpoint" | "entrance";
  readonly work: Work;
  readonly bar: Bar | null;
  /** At full scale. */
  readonly count: number;
}

const rates: readonly Compared[] = [
  {
    name: "endpoint-inserts",
    title: `single-row inserts over HTTP, ${connections} connections, the row answered`,
    way: "endpoint",
    work: "insert",
    bar: { of: "ratio", is: "at least", value: 0.5, aim: 0.8 },
    count: 16_000,
  },
  {
    name: "endpoint-inserts-minimal",
    title: "the same, nothing but the version answered (Prefer: return=minimal)",
    way: "endpoint",
    work: "insertMinimal",
    bar: null,
    count: 16_000,
  },
  {
    name: "endpoint-reads",
    title: `reads by key over HTTP, ${connections} connections`,
    way: "endpoint",
    work: "read",
    bar: { of: "ratio", is: "at least", value: 0.6, aim: null },
    count: 16_000,
  },
  {
    name: "entrance-inserts",
    title: `single-row inserts by pg through the PostgreSQL entrance, ${connections} connections`,
    way: "entrance",
    work: "insert",
    bar: { of: "ratio", is: "at least", value: 0.9, aim: null },
    count: 16_000,
  },
  {
    name: "entrance-results",
    title: `results of ${pageRows} rows by pg through the PostgreSQL entrance`,
    way: "entrance",
    work: "page",
    bar: null,
    count: 200,
  },
];

const notes = ["native: pg, from one process, straight to the same database"];

const compareRates = async (context: BenchContext, room: Room, each: Compared): Promise<Measure> => {
  const count = Math.min(seeded / 1.2, context.scaled(each.count));
  const found = { ours: [] as number[], native: [] as number[] };
  for (let i = -context.warmUps; i < context.runs; i += 1) {
    for (const [side, way] of [
      ["ours", each.way],
      ["native", "direct"],
    ] as const) {
      const { seconds } = await room.load(way, { work: each.work, count });
      if (i >= 0) found[side].push(count / seconds);
    }
  }
  const { name, title, bar } = each;
  return { name, title, unit: "requests/s", ...found, bar, notes };
};

/** At half of what the endpoint does at most, both ways. */
const compareLatency = async (context: BenchContext, room: Room, peak: number): Promise<Measure> => {
  const perSecond = Math.round(peak / 2);
  const count = Math.round(perSecond * Math.max(1, 5 * context.scale));
  const found = { ours: [] as number[], native: [] as number[] };
  for (let i = -context.warmUps; i < context.runs; i += 1) {
    for (const [side, way] of [
      ["ours", "endpoint"],
      ["native", "direct"],
    ] as const) {
      const { p99Ms } = await room.load(way, { work: "insert", count, perSecond });
      if (i >= 0) found[side].push(p99Ms);
    }
  }
  return {
    name: "endpoint-p99",
    title: "inserts over HTTP at half the endpoint's peak rate: 99 of 100 within",
    unit: "ms",
    ...found,
    bar: { of: "difference", is: "at most", value: 3, aim: null },
    notes: [`${perSecond}/s, evenly, both ways`],
  };
};

const runEndpoint = async (context: BenchContext): Promise<BenchResult> => {
  await using cluster = await open(context);
  const region = regionAt(cluster, 0);
  await region.agent.start();
  const room = new Room(context, region, cluster.database);
  const measures: Measure[] = [];
  for (const each of rates) {
    const measure = await compareRates(context, room, each);
    measures.push(measure);
    if (each.name === "endpoint-inserts") {
      measures.push(await compareLatency(context, room, median(measure.ours)));
    }
  }
  return { measures, failures: room.failures };
};

export const endpoint: BenchCase = { name: "endpoint", quick: true, run: runEndpoint };
