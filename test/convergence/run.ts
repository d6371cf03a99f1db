import process from "node:process";
import { parseArgs } from "node:util";
import { startCluster, type TestCluster } from "../../src/testing/index.ts";
import { wholeNumber } from "../support/whole-number.ts";
import { playSchedule, prepareRegion, type Verdict } from "./play.ts";
import { describeFault, scheduleOf, type Schedule } from "./schedule.ts";
import { schema, tableOptions } from "./tables.ts";

/**
 * `npm run test:convergence [-- --seed S --schedules N --only K]`: seeded random schedules of writes and faults over
 * three regions, each judged by the oracle. See docs/convergence.md.
 */

const usage = `test/convergence/run.ts [--seed S] [--schedules N] [--only K]
  --seed S       schedule k of N has the seed S + k - 1; default COREGENT_SEED, else by the clock
  --schedules N  how many; default 20
  --only K       the K-th alone (from 1)
`;

interface Options {
  readonly seed: number;
  readonly schedules: number;
  readonly only: number | null;
}

const readOptions = (): Options => {
  const { values } = parseArgs({
    options: { seed: { type: "string" }, schedules: { type: "string" }, only: { type: "string" } },
  });
  const seed = values.seed ?? process.env["COREGENT_SEED"];
  return {
    // Tens, so that the schedule about joining, which needs a cluster of its own, comes last of ten.
    seed:
      seed === undefined || seed === ""
        ? Math.floor(Date.now() / 1000 / 10) * 10
        : wholeNumber(seed, "--seed", 0),
    schedules: wholeNumber(values.schedules ?? "20", "--schedules", 1),
    only: values.only === undefined ? null : wholeNumber(values.only, "--only", 1),
  };
};

const say = (line: string): void => {
  process.stdout.write(`${line}\n`);
};

const newCluster = async (): Promise<TestCluster> => {
  const cluster = await startCluster({
    regions: 3,
    schema,
    tables: tableOptions,
    // So that an agent which is stopped for a few seconds loses its streams.
    settings: { wal_sender_timeout: "3s", log_lock_waits: "on" },
  });
  try {
    await cluster.converged();
    await Promise.all(cluster.regions.map(prepareRegion));
    return cluster;
  } catch (error) {
    await cluster.stop();
    throw error;
  }
};

/** One cluster serves many schedules, until one fails in it or adds a region to it. */
class Clusters implements AsyncDisposable {
  #cluster: TestCluster | null = null;

  async take(): Promise<TestCluster> {
    this.#cluster ??= await newCluster();
    return this.#cluster;
  }

  async giveBack(passed: boolean): Promise<void> {
    if (!passed || (this.#cluster?.regions.length ?? 3) > 3) await this[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const cluster = this.#cluster;
    this.#cluster = null;
    await cluster?.stop();
  }
}

const explain = async (schedule: Schedule, verdict: Verdict, cluster: TestCluster): Promise<void> => {
  say(`    seed ${schedule.seed}; again: npm run test:convergence -- --seed ${schedule.seed} --schedules 1`);
  say(`    planned:\n      ${schedule.faults.map(describeFault).join("\n      ")}`);
  say(`    noted:\n      ${verdict.notes.join("\n      ")}`);
  say(`    wrong:\n      ${verdict.problems.join("\n      ")}`);
  for (const { name, agent } of cluster.regions) {
    say(`    agent of ${name}, ${(await agent.tail(25)).replaceAll("\n", "\n      ")}`);
  }
};

const play = async (clusters: Clusters, schedule: Schedule, number: number): Promise<boolean> => {
  const cluster = await clusters.take();
  const verdict = await playSchedule(cluster, schedule);
  const passed = verdict.problems.length === 0;
  const faults = Map.groupBy(schedule.faults, ({ kind }) => kind);
  const counts = [...faults]
    .map(([kind, all]) => (all.length > 1 ? `${all.length} ${kind}` : kind))
    .join(", ");
  say(`${passed ? "ok    " : "FAILED"} ${number} seed ${schedule.seed}: ${counts}; ${verdict.summary}`);
  if (!passed) await explain(schedule, verdict, cluster);
  await clusters.giveBack(passed);
  return passed;
};

const main = async (): Promise<void> => {
  const options = readOptions();
  const numbers =
    options.only === null ? Array.from({ length: options.schedules }, (_, i) => i + 1) : [options.only];
  say(`seed ${options.seed}, ${numbers.length} schedules`);
  let passed = 0;
  {
    await using clusters = new Clusters();
    for (const number of numbers) {
      if (await play(clusters, scheduleOf(options.seed + number - 1), number)) passed += 1;
    }
  }
  say(`${passed} passed, ${numbers.length - passed} failed`);
  process.exitCode = passed === numbers.length ? 0 : 1;
};

try {
  await main();
} catch (error) {
  const known =
    error instanceof Error && !error.message.startsWith("--")
      ? (error.stack ?? error.message)
      : String(error);
  process.stderr.write(`${known}\n${usage}`);
  process.exitCode = 2;
}
// Every cluster is stopped. Once, after 20 schedules, the process of a guard of a server that had ended stayed unreaped,
// and this one with it.
process.exit();
