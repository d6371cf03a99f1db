import type { BenchCase, BenchContext, BenchResult } from "../case.ts";
import { openCluster, regionAt, type BenchCluster, type BenchRegion } from "../region.ts";
import { pauseMs, until, withClient } from "../sql.ts";

/**
 * All processes of a master are killed while rows that it owns are written: from then until the first of them is accepted elsewhere,
 * at another region's endpoint and at that of the master's own, with the settings that a configuration has without saying
 * anything.
 */

const schema = ["CREATE TABLE notes (id text PRIMARY KEY, body text NOT NULL, home_region text NOT NULL)"];

const askAgainMs = 10;
const giveUpMs = 30_000;

interface Written {
  /** performance.now() of the answer. */
  readonly atMs: number;
  readonly region: string;
}

/** Writes rows of region a one after the other, each until it is accepted or cannot be told. */
class RowWriter {
  readonly accepted: Written[] = [];
  readonly ids: string[] = [];
  readonly #name: string;
  readonly #url: string;
  #ended = false;
  readonly #running: Promise<void>;

  constructor({ apiPort }: BenchRegion, name: string) {
    this.#name = name;
    this.#url = `http://127.0.0.1:${apiPort}/v1/tables/notes/rows`;
    this.#running = this.#run();
  }

  async end(): Promise<void> {
    this.#ended = true;
    await this.#running;
  }

  async #run(): Promise<void> {
    for (let n = 0; !this.#ended; n += 1) {
      const id = `${this.#name} ${n}`;
      if (!(await this.#write(id))) await pauseMs(askAgainMs);
    }
  }

  /** Whether it was accepted. */
  async #write(id: string): Promise<boolean> {
    try {
      const response = await fetch(this.#url, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ id, body: "a note", home_region: "a" }),
        signal: AbortSignal.timeout(giveUpMs),
      });
      await response.arrayBuffer();
      if (!response.ok) return false;
      this.accepted.push({
        atMs: performance.now(),
        region: response.headers.get("coregent-region") ?? "",
      });
      this.ids.push(id);
      return true;
    } catch {
      return false;
    }
  }
}

/** Seconds from the kill until each writer's first row is accepted elsewhere. */
const once = async (context: BenchContext, cluster: BenchCluster, round: number) => {
  const writers = (["there", "here"] as const).map(
    (where) => new RowWriter(regionAt(cluster, where === "here" ? 0 : 1), `${where} ${round}`),
  );
  const settled = (count: number, region?: string): Promise<void> =>
    until(
      "rows are accepted",
      () =>
        Promise.resolve(
          writers.every(
            ({ accepted }) =>
              accepted.filter((each) => region === undefined || each.region !== region).length >= count,
          ),
        ),
      { timeoutMs: giveUpMs },
    );
  await settled(50);
  const server = await context.servers.get("a");
  const killedAt = performance.now();
  await server.kill();
  await settled(1, "a");
  const seconds = writers.map(({ accepted }) => {
    const first = accepted.find(({ atMs, region }) => atMs > killedAt && region !== "a");
    return ((first?.atMs ?? Number.NaN) - killedAt) / 1000;
  });
  await settled(10, "a");
  await Promise.all(writers.map((writer) => writer.end()));
  await server.start();
  const [there = Number.NaN, here = Number.NaN] = seconds;
  return { there, here, ids: writers.flatMap(({ ids }) => ids) };
};

/** Each row that was accepted, in every region. */
const missing = async (cluster: BenchCluster, ids: readonly string[]): Promise<number> => {
  const counts = await Promise.all(
    cluster.regions.map(({ server }) =>
      withClient(server.url(cluster.database), async (client) => {
        const { rows } = await client.query<{ count: number }>(
          "SELECT count(*)::int AS count FROM notes WHERE id = ANY ($1::text[])",
          [ids],
        );
        return ids.length - (rows[0]?.count ?? 0);
      }).catch(() => ids.length),
    ),
  );
  return Math.max(...counts);
};

const runFailover = async (context: BenchContext): Promise<BenchResult> => {
  await using cluster = await openCluster(context.servers, {
    regions: 3,
    schema,
    tables: [{ name: "public.notes", owner: "home_region" }],
  });
  await Promise.all(cluster.regions.map(({ agent }) => agent.start()));
  const found = { there: [] as number[], here: [] as number[] };
  const failures: string[] = [];
  for (let round = -context.warmUps; round < context.runs; round += 1) {
    await ownerIsBack(cluster);
    const { there, here, ids } = await once(context, cluster, round + context.warmUps);
    context.say(`  at another endpoint after ${there.toFixed(2)} s, at its own after ${here.toFixed(2)} s`);
    await until("all rows are everywhere", async () => (await missing(cluster, ids)) === 0, {
      everyMs: 100,
      timeoutMs: 60_000,
    }).catch(async () => {
      failures.push(`failover: ${await missing(cluster, ids)} accepted rows of ${ids.length} are lacking`);
    });
    if (round < 0) continue;
    found.there.push(there);
    found.here.push(here);
  }
  const bar = { of: "ours", is: "at most", value: 3, aim: null } as const;
  const notes = ["default settings; all processes of the master by SIGKILL, two writers without a pause"];
  return {
    measures: [
      {
        name: "failover",
        title: "a row's owner killed, until another region's endpoint has accepted one",
        unit: "s",
        ours: found.there,
        native: [],
        bar,
        notes,
      },
      {
        name: "failover-own",
        title: "the same, until the endpoint in the region of the dead master has",
        unit: "s",
        ours: found.here,
        native: [],
        bar,
        notes,
      },
    ],
    failures,
  };
};

/** Both endpoints send the rows of a to a again. */
const ownerIsBack = async (cluster: BenchCluster): Promise<void> => {
  for (const { apiPort } of cluster.regions.slice(0, 2)) {
    await until(
      "the owner takes its rows",
      async () => {
        const response = await fetch(`http://127.0.0.1:${apiPort}/v1/route?table=notes`);
        const { regions = [] } = (await response.json()) as {
          regions?: { region: string; choice: string }[];
        };
        return regions.some(({ region, choice }) => region === "a" && ["here", "nearest"].includes(choice));
      },
      { everyMs: 100, timeoutMs: 60_000 },
    );
  }
};

export const failover: BenchCase = { name: "failover", quick: false, run: runFailover };
