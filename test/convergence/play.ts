import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { seeded } from "../../src/demo/random.ts";
import type { TestCluster, TestRegion } from "../../src/testing/index.ts";
import { Faults } from "./faults.ts";
import { History, type KeyState } from "./history.ts";
import { readLog, tombstonesOf } from "./read.ts";
import { regionsDiffer } from "./regions-equal.ts";
import type { Fault, Schedule } from "./schedule.ts";
import { pause } from "./session.ts";
import { contended, inScope } from "./tables.ts";
import { allStatesSql, highest, probeSql, Watcher } from "./watcher.ts";
import { GroupRecord, tornSql } from "./whole.ts";
import { ContendedWriter, GroupWriter, type StateRow, type Tombstones } from "./writers.ts";

export interface Verdict {
  /** None: the schedule passed. */
  readonly problems: readonly string[];
  /** For the schedule's line. */
  readonly summary: string;
  /** What was done when, beside what the schedule says. */
  readonly notes: readonly string[];
}

const quietMs = 90_000;
const maxFalseAlarms = 5;
/** Stops listing what follows from the same cause. */
const maxProblems = 40;

/** Plays one schedule on a cluster in which nothing is under way, and judges it. */
export const playSchedule = async (cluster: TestCluster, schedule: Schedule): Promise<Verdict> => {
  const play = new Play(cluster, schedule);
  try {
    await play.run();
  } catch (error) {
    play.problem(error instanceof Error ? (error.stack ?? error.message) : String(error));
  } finally {
    await play.end();
  }
  return play.verdict();
};

/** To be run in each region of a new cluster, once nothing is being copied. */
export const prepareRegion = async (region: TestRegion): Promise<void> => {
  await region.sql(probeSql);
};

class Play {
  readonly #cluster: TestCluster;
  readonly #schedule: Schedule;
  readonly #prefix: string;
  readonly #history = new History();
  readonly #groups = new GroupRecord();
  readonly #watchers = new Map<string, Watcher>();
  readonly #expectedCopies = new Set<string>();
  readonly #stopWriting = new AbortController();
  readonly #stopWatching = new AbortController();
  readonly #running: Promise<void>[] = [];
  readonly #problems = new Set<string>();
  #falseAlarms: readonly string[] = [];
  readonly #notes: string[] = [];
  readonly #start = performance.now();
  #tombstones: Tombstones = new Map();
  #quietAfterMs = 0;
  #conflicts = 0;

  constructor(cluster: TestCluster, schedule: Schedule) {
    this.#cluster = cluster;
    this.#schedule = schedule;
    this.#prefix = `${schedule.seed}-`;
  }

  problem(line: string): void {
    if (this.#problems.size < maxProblems) this.#problems.add(line);
  }

  async run(): Promise<void> {
    const { lengthMs, faults } = this.#schedule;
    this.#tombstones = await tombstonesOf(this.#cluster.regions[0]);
    for (const region of this.#cluster.regions) await this.#bringIn(region, { joining: false });
    await Promise.all([this.#play(faults), pause(lengthMs)]);
    await this.#heal();
    // What is written while all catch up.
    await pause(300);
    this.#stopWriting.abort();
    const stopped = performance.now();
    await this.#quiet();
    this.#quietAfterMs = performance.now() - stopped;
    await this.#judge();
  }

  async end(): Promise<void> {
    this.#stopWriting.abort();
    this.#stopWatching.abort();
    this.#cluster.heal();
    await Promise.all(this.#running);
  }

  verdict(): Verdict {
    const { acknowledged, unknown, aborted } = this.#history.counts;
    const polls = [...this.#watchers.values()].reduce((sum, watcher) => sum + watcher.polls, 0);
    const seconds = ((performance.now() - this.#start) / 1000).toFixed(1);
    return {
      problems: [...this.#problems],
      notes: this.#notes,
      summary:
        `${acknowledged} writes (${unknown} unknown, ${aborted} undone), ${this.#conflicts} conflicts ` +
        `(${this.#falseAlarms.length} false alarms), ` +
        `${polls} polls, quiet after ${(this.#quietAfterMs / 1000).toFixed(1)} s, ${seconds} s`,
    };
  }

  #note(line: string): void {
    this.#notes.push(`${((performance.now() - this.#start) / 1000).toFixed(2)} s ${line}`);
  }

  /** Writers and a reader in one region. */
  async #bringIn(region: TestRegion, { joining }: { readonly joining: boolean }): Promise<void> {
    const problem = (line: string): void => this.problem(line);
    const watcher = new Watcher(
      {
        region,
        regions: () => this.#cluster.regions,
        prefix: this.#prefix,
        tombstones: this.#tombstones,
        problem,
        stop: this.#stopWatching.signal,
      },
      { joining },
    );
    this.#watchers.set(region.name, watcher);
    await watcher.begin();
    const { seed, keys, hugeGroup, quiet } = this.#schedule;
    const parts = (name: string) => ({
      region,
      name,
      random: seeded(seed, `writer ${name}`),
      scope: { prefix: this.#prefix, regions: ["a", "b", "c"], keys },
      problem,
      stop: this.#stopWriting.signal,
    });
    this.#running.push(watcher.run());
    if (region.name === quiet) return;
    this.#running.push(
      new ContendedWriter(parts(`${region.name}.1`), this.#history, this.#tombstones).run(),
      new ContendedWriter(parts(`${region.name}.2`), this.#history, this.#tombstones).run(),
      new GroupWriter(parts(region.name), this.#groups, region.name === "a" ? hugeGroup : 0).run(),
    );
  }

  async #play(faults: readonly Fault[]): Promise<void> {
    const stage = {
      cluster: this.#cluster,
      crashed: (region: string) => this.#watchers.get(region)?.crashed(),
      expectCopy: (source: string, target: string) => void this.#expectedCopies.add(`${source} to ${target}`),
      join: (region: string) => this.#join(region),
      note: (line: string) => this.#note(line),
      problem: (line: string) => this.problem(line),
    };
    await new Faults(stage).play(faults);
    this.#note("all faults are over");
  }

  async #join(name: string): Promise<void> {
    const cluster = this.#cluster;
    for (const { name: other } of cluster.regions) {
      this.#expectedCopies.add(`${other} to ${name}`).add(`${name} to ${other}`);
    }
    const region = await cluster.addRegion(name);
    // Other regions may be down just now: the operator tries again.
    for (let attempt = 1; ; attempt += 1) {
      try {
        await cluster.init();
        break;
      } catch (error) {
        if (attempt === 30) throw error;
        this.#note(`init: ${String(error)}`);
        await pause(500);
      }
    }
    await prepareRegion(region);
    await this.#bringIn(region, { joining: true });
    await cluster.startAgent(name);
  }

  async #heal(): Promise<void> {
    const cluster = this.#cluster;
    cluster.heal();
    for (const { name, agent } of cluster.regions) {
      if (agent.crash !== null) this.problem(`the agent of ${name} ${agent.crash} though nobody ended it`);
      cluster.resumeAgent(name);
    }
    await Promise.all(cluster.regions.map(({ name }) => cluster.restart(name)));
    await Promise.all(cluster.regions.map(({ name }) => cluster.skewClock(name, 0)));
    this.#note("all is healed");
  }

  /**
   * Until all that was written is merged everywhere, and what the merges wrote (the conflict log) too: streams are in
   * order, so a mark that has arrived has everything before it behind it.
   */
  async #quiet(): Promise<void> {
    const deadline = performance.now() + quietMs;
    const regions = this.#cluster.regions;
    for (const round of ["copied", "first", "second"] as const) {
      const mark = `${this.#prefix}${round}`;
      if (round !== "copied")
        for (const { name, sql } of regions.map((region) => ({
          name: region.name,
          sql: region.sql.bind(region),
        })))
          await sql(
            "INSERT INTO marker VALUES ($1, $2) ON CONFLICT (region) DO UPDATE SET mark = excluded.mark",
            [name, mark],
          );
      for (;;) {
        const missing = (
          await Promise.all(
            regions.map((region) =>
              round === "copied" ? copying(region) : unmarked(region, mark, regions.length),
            ),
          )
        ).flat();
        if (missing.length === 0) break;
        if (performance.now() > deadline)
          throw new Error(`not quiet ${quietMs} ms after the last write:\n      ${missing.join("\n      ")}`);
        await pause(100);
      }
      this.#note(round === "copied" ? "nothing is being copied" : `the ${round} marks are everywhere`);
    }
    // What is left is to be swept: rows that a tombstone outranks, where the two did not see each other.
    for (const until = performance.now() + 10_000; ; await pause(100)) {
      const lines = await regionsDiffer(regions);
      if (lines.length === 0) break;
      if (performance.now() < until) continue;
      for (const line of lines) this.problem(line);
      break;
    }
  }

  async #judge(): Promise<void> {
    const regions = this.#cluster.regions;
    const prefix = this.#prefix;
    const [first] = regions;
    if (first === undefined) return;
    const log = await readLog(first, { tables: contended, prefix });
    this.#conflicts = log.length;
    const held = new Map<string, ReadonlyMap<string, KeyState>>();
    for (const region of regions) {
      held.set(
        region.name,
        highest(await region.sql<StateRow & Record<string, unknown>>(allStatesSql(this.#tombstones, prefix))),
      );
    }
    const final = held.get(first.name) ?? new Map<string, KeyState>();
    for (const line of this.#history.problems(final, log)) this.problem(line);
    this.#falseAlarms = this.#history.falseAlarms(final, log);
    for (const line of this.#falseAlarms) this.#note(line);
    if (this.#falseAlarms.length > maxFalseAlarms)
      this.problem(`${this.#falseAlarms.length} false alarms are in the log: more than a rare race leaves`);
    for (const { name, agent } of regions) {
      const watcher = this.#watchers.get(name);
      for (const line of watcher?.settle(held.get(name) ?? new Map()) ?? []) this.problem(line);
      for (const [source, what] of watcher?.copies ?? [])
        if (!this.#expectedCopies.has(`${source} to ${name}`))
          this.problem(`${name} copied the states of ${source} (${what}) though no change was missing`);
      if (agent.crash !== null) this.problem(`the agent of ${name} ${agent.crash} though nobody ended it`);
    }
    await this.#judgeGroups(first);
    await this.#verify();
    if (this.#problems.size === 0) return;
    const story = join(this.#cluster.folder, `story-${this.#schedule.seed}.txt`);
    await writeFile(story, this.#history.story(held.get(first.name) ?? new Map(), log));
    this.#note(`all writes are in ${story} (kept with COREGENT_TEST_KEEP=1)`);
  }

  async #judgeGroups(region: TestRegion): Promise<void> {
    for (const torn of await region.sql<{ grp: string; what: string }>(tornSql(this.#prefix)))
      this.problem(`in the end group ${torn.grp} is in parts: ${torn.what}`);
    const rows = await region.sql<{ grp: string; round: number }>(
      `SELECT grp, max(round) AS round FROM group_a WHERE ${inScope("grp", this.#prefix)} GROUP BY grp`,
    );
    for (const line of this.#groups.problems(new Map(rows.map(({ grp, round }) => [grp, round]))))
      this.problem(line);
    const alarms = await region.sql<{ table_name: string; key: string; type: string }>(
      "SELECT table_name, key, type FROM coregent.conflict WHERE table_name IN ('public.group_a', 'public.group_b', 'public.marker')",
    );
    for (const { table_name, key, type } of alarms)
      this.problem(
        `the conflict log has ${type} of ${table_name} ${key}, which one region alone has written`,
      );
  }

  async #verify(): Promise<void> {
    const { code, stdout, stderr } = await this.#cluster.coregent(["verify", "--json"]);
    if (code !== 0)
      this.problem(`coregent verify ended with ${code}: ${stdout.slice(0, 2_000)} ${stderr.slice(0, 2_000)}`);
  }
}

const copying = async (region: TestRegion): Promise<string[]> => {
  const rows = await region.sql<{ origin: number; table_name: string; reason: string | null }>(
    "SELECT * FROM coregent.table_sync",
  );
  return rows.map(
    ({ origin, table_name, reason }) =>
      `${region.name} still copies ${table_name} from ${origin} (${reason})`,
  );
};

const unmarked = async (region: TestRegion, mark: string, count: number): Promise<string[]> => {
  const rows = await region.sql<{ region: string }>("SELECT region FROM marker WHERE mark = $1", [mark]);
  return rows.length >= count
    ? []
    : [`${region.name} has ${mark} of ${rows.map((row) => row.region).join(", ") || "nobody"} only`];
};
