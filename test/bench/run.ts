import { availableParallelism, cpus, loadavg } from "node:os";
import process from "node:process";
import type { BenchCase, BenchContext, BenchResult } from "./case.ts";
import { pglogicalInstalled } from "./peers/debian-server.ts";
import { cases } from "./cases.ts";
import { readOptions, usage, type BenchOptions } from "./options.ts";
import { cpuRow, cpuTable, failuresOf, judge, measuresTable, peersText } from "./report.ts";
import { Servers } from "./servers.ts";
import { inSnapshot, runInSnapshot } from "./snapshot.ts";

/** `npm run bench`: Coregent against PostgreSQL's own logical replication. See docs/benchmarks.md. */

const out = (text: string): void => {
  process.stdout.write(`${text}\n`);
};

const contextOf = (options: BenchOptions, servers: Servers): BenchContext => ({
  servers,
  runs: options.runs,
  warmUps: options.warmUps,
  scale: options.scale,
  scaled: (count, multiple = 1) => Math.max(1, Math.round((count * options.scale) / multiple)) * multiple,
  peers: options.peers && pglogicalInstalled(),
  say: (line) => {
    process.stderr.write(`${line}\n`);
  },
});

/** A whole name chooses that case alone, the beginning of names all that begin so. */
const chosenCases = ({ only, quick }: BenchOptions): readonly BenchCase[] => {
  if (only.length === 0) return quick ? cases.filter((each) => each.quick) : cases;
  const wanted = (name: string): boolean =>
    only.some(
      (each) => each === name || (cases.every((other) => other.name !== each) && name.startsWith(each)),
    );
  return cases.filter(({ name }) => wanted(name));
};

interface Outcome {
  readonly results: readonly BenchResult[];
  readonly settings: string;
  readonly seconds: number;
}

/** What one case could not measure must not cost the others: it is a failure in the report. */
const runCase = async (each: BenchCase, context: BenchContext): Promise<BenchResult> => {
  try {
    return await each.run(context);
  } catch (error) {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    context.say(`  FAILED: ${text}`);
    return { measures: [], failures: [`${each.name} could not be measured: ${text}`] };
  }
};

const runCases = async (options: BenchOptions): Promise<Outcome> => {
  const chosen = chosenCases(options);
  if (chosen.length === 0) throw new Error(`there is no case ${options.only.join(", ")}`);
  const startedAt = performance.now();
  await using servers = await Servers.open();
  const context = contextOf(options, servers);
  const results: BenchResult[] = [];
  for (const each of chosen) {
    context.say(`${each.name} (load ${loadavg()[0]?.toFixed(1)})`);
    results.push(await runCase(each, context));
  }
  const settings = await servers.describe();
  return { results, settings, seconds: (performance.now() - startedAt) / 1000 };
};

const machine = (): string =>
  `${availableParallelism()} cores (${cpus()[0]?.model.trim()}), Node ${process.versions.node}`;

const report = (options: BenchOptions, { results, settings, seconds }: Outcome): void => {
  const measures = results.flatMap((result) => result.measures).map(judge);
  const cpu = results.flatMap((result) => result.cpu ?? []).map(cpuRow);
  const failures = failuresOf(results);
  const { runs, warmUps, scale } = options;
  if (options.json) {
    out(
      JSON.stringify(
        { machine: machine(), settings, scale, runs, warmUps, seconds, cases: measures, cpu, failures },
        null,
        2,
      ),
    );
  } else {
    out(measuresTable(measures));
    if (cpu.length > 0) out(cpuTable(cpu));
    for (const { name, notes } of measures) for (const note of notes) out(`${name}: ${note}`);
    out(`\n${machine()}; all servers: ${settings}`);
    if (options.peers) out(peersText(measures));
    out(`median of ${runs}, ${warmUps} warm-up, scale ${scale}; ${Math.round(seconds)} s in all`);
  }
  for (const failure of failures) process.stderr.write(`FAILED: ${failure}\n`);
  const missed = measures.some(({ met }) => met === false);
  process.exitCode = failures.length > 0 || (options.strict && missed) ? 1 : 0;
};

const main = async (): Promise<void> => {
  const args = process.argv.slice(2);
  const options = readOptions(args);
  if (options.list) {
    for (const { name } of cases) out(name);
    return;
  }
  if (inSnapshot()) report(options, await runCases(options));
  else process.exitCode = await runInSnapshot(args);
};

try {
  await main();
} catch (error) {
  process.stderr.write(
    `${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n${usage}`,
  );
  process.exitCode = 2;
}
