import { seeded } from "../../src/demo/random.ts";
import { startCluster, type TestCluster } from "../../src/testing/index.ts";
import { regionsDiffer } from "../convergence/regions-equal.ts";
import { pause } from "../convergence/session.ts";
import type { Endpoint } from "./client.ts";
import { DurableWriter } from "./durable.ts";
import { adminTokenSha256, Faults } from "./faults.ts";
import { judge, type Verdict } from "./judge.ts";
import { describeFault, type Episode } from "./schedule.ts";
import { effectsSql, schema, tableOptions } from "./tables.ts";
import { type Client, Recorder, type Row, Sentinel, Writer, type WriterParts } from "./writers.ts";
import { TransactionWriter } from "./transactions.ts";

export interface PlayOptions {
  readonly seed: number;
  readonly episodes: Iterable<Episode>;
  /** No episode begins later than so after the first. */
  readonly lengthMs: number;
  /** After a master's death, until writes are accepted at every endpoint that can be asked. */
  readonly withinMs: number;
  /** Told what is done when. */
  readonly note: (line: string) => void;
}

/** Three regions with the writer's default settings, and the rows that all write. The caller stops the cluster. */
export const startRegions = async (): Promise<TestCluster> => {
  const cluster = await startCluster({
    regions: 3,
    schema,
    tables: tableOptions,
    latencyMs: 10,
    outages: true,
    endpoint: {
      anonymous: "writer",
      tokens: [{ name: "ops", role: "admin", sha256: adminTokenSha256 }],
    },
  });
  try {
    await Promise.all(cluster.regions.map((region) => region.sql(effectsSql)));
    return cluster;
  } catch (error) {
    await cluster.stop();
    throw error;
  }
};

/** Plays one schedule on such a cluster, which has not been written to, and judges it. */
export const playFailover = (cluster: TestCluster, options: PlayOptions): Promise<Verdict> =>
  new Play(cluster, options).run();

const writersOfEach = 3;
const quietWithinMs = 90_000;
/** Stops listing what follows from the same cause. */
const maxProblems = 40;

class Play {
  readonly #cluster: TestCluster;
  readonly #options: PlayOptions;
  readonly #problems = new Set<string>();
  readonly #recorder: Recorder;
  readonly #faults: Faults;
  readonly #stop = new AbortController();
  readonly #over = new AbortController();
  readonly #startMs = performance.now();

  constructor(cluster: TestCluster, options: PlayOptions) {
    this.#cluster = cluster;
    this.#options = options;
    const problem = (line: string): void => this.#problem(line);
    this.#recorder = new Recorder(problem);
    this.#faults = new Faults({ cluster, problem, note: (line) => this.#note(line) });
  }

  async run(): Promise<Verdict> {
    await this.#faults.allWell();
    const sentinels = this.#sentinels();
    const running = [...this.#writers(), ...sentinels].map((client) => client.run());
    try {
      await pause(500);
      await this.#playEpisodes();
      await this.#heal();
      await pause(300);
    } finally {
      this.#stop.abort();
      const late = setTimeout(() => this.#over.abort(), 20_000);
      await Promise.all(running);
      clearTimeout(late);
    }
    await this.#quiet();
    const facts = { deaths: this.#faults.deaths, away: this.#faults.away, withinMs: this.#options.withinMs };
    const verdict = await judge(this.#cluster, this.#recorder, {
      ...facts,
      drains: this.#faults.drains,
      lanes: sentinels.filter((_, i) => i % 2 === 0).flatMap(({ lanes }) => lanes),
    });
    return { ...verdict, problems: [...this.#problems, ...verdict.problems].slice(0, maxProblems) };
  }

  get #endpoints(): [Endpoint, ...Endpoint[]] {
    const [first, ...rest] = this.#cluster.regions.map(({ name, api }) => ({ region: name, api }));
    if (first === undefined) throw new Error("there are no regions");
    return [first, ...rest];
  }

  #parts(name: string, home: Endpoint): WriterParts {
    return {
      name,
      home,
      endpoints: this.#endpoints,
      random: seeded(this.#options.seed, name),
      recorder: this.#recorder,
      stop: this.#stop.signal,
      over: this.#over.signal,
    };
  }

  #writers(): (Client & { readonly run: () => Promise<void> })[] {
    const regions = this.#endpoints.map(({ region }) => region);
    const held = (region: string, row: Row): Promise<bigint | null> => this.#held(region, row);
    return this.#endpoints.flatMap((home) => [
      ...Array.from({ length: writersOfEach }, (_, i) => {
        const parts = this.#parts(`${home.region}.writer-${i + 1}`, home);
        return new Writer(parts, { regions, session: i > 0 });
      }),
      new TransactionWriter(this.#parts(`${home.region}.together`, home), regions),
      new DurableWriter(this.#parts(`${home.region}.durable`, home), held),
    ]);
  }

  /** The version of a row in a region, 0 for none, as its server says; null: it is not there to be asked. */
  async #held(region: string, { table, id }: Row): Promise<bigint | null> {
    try {
      const rows = await this.#cluster
        .region(region)
        .sql<{ version: string }>(`SELECT cg_version::text AS version FROM ${table} WHERE id = $1`, [id]);
      return BigInt(rows[0]?.version ?? 0);
    } catch {
      return null;
    }
  }

  /** Two of each, since one whose COMMIT was under way when a region fell silent waits to be told what became of it. */
  #sentinels(): Sentinel[] {
    const owners = [...this.#endpoints.map(({ region }) => region), null];
    return this.#endpoints.flatMap((home) =>
      owners.flatMap((owner) =>
        ["1", "2"].map((i) => {
          const name = `${home.region}.asks-${owner ?? "any"}-${i}`;
          return new Sentinel(this.#parts(name, home), owner);
        }),
      ),
    );
  }

  async #playEpisodes(): Promise<void> {
    const startMs = performance.now();
    for (const episode of this.#options.episodes) {
      if (performance.now() - startMs >= this.#options.lengthMs) return;
      this.#note(episode.faults.map(describeFault).join("; "));
      await this.#faults.play(episode);
    }
  }

  async #heal(): Promise<void> {
    const cluster = this.#cluster;
    cluster.heal();
    await Promise.all(cluster.regions.map(({ name }) => cluster.restart(name)));
    await this.#faults.allWell();
    for (const { name, agent } of cluster.regions) {
      if (agent.crash !== null) this.#problem(`the agent of ${name} ${agent.crash} though nobody ended it`);
    }
    this.#note("all is healed");
  }

  /** Until all regions hold the same: rows, tombstones, what the merges wrote. */
  async #quiet(): Promise<void> {
    const { regions } = this.#cluster;
    await this.#cluster.converged({ timeoutMs: quietWithinMs });
    for (const untilMs = performance.now() + 10_000; ; await pause(100)) {
      const lines = await regionsDiffer(regions);
      if (lines.length === 0) break;
      if (performance.now() < untilMs) continue;
      for (const line of lines) this.#problem(line);
      break;
    }
    const { code, stdout } = await this.#cluster.coregent(["verify", "--json"]);
    if (code !== 0) this.#problem(`coregent verify ended with ${code}: ${stdout.slice(0, 2_000)}`);
    this.#note("the regions are equal");
  }

  #problem(line: string): void {
    if (this.#problems.size < maxProblems) this.#problems.add(line);
    this.#note(`PROBLEM ${line}`);
  }

  #note(line: string): void {
    this.#options.note(`${((performance.now() - this.#startMs) / 1000).toFixed(2)} s ${line}`);
  }
}
