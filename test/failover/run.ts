import { availableParallelism, loadavg } from "node:os";
import process from "node:process";
import { parseArgs } from "node:util";
import { wholeNumber } from "../support/whole-number.ts";
import { playFailover, startRegions } from "./play.ts";
import { episodesOf } from "./schedule.ts";

/**
 * `npm run test:failover [-- --seed S --seconds N --within MS]`: clients write at three endpoints while masters, agents and regions die and
 * return. See docs/testing.md.
 */

const usage = `test/failover/run.ts [--seed S] [--seconds N] [--within MS]
  --seed S     decides what befalls which region, and what is written; default COREGENT_SEED, else by the clock
  --seconds N  how long; default 120
  --within MS  after a death writes must be accepted again; default 3000, which is promised, but not by a machine that is busy with
               other things
`;

const regions = ["a", "b", "c"] as const;

const say = (line: string): void => {
  process.stdout.write(`${line}\n`);
};

const main = async (): Promise<void> => {
  const text = { type: "string" } as const;
  const { values } = parseArgs({ options: { seed: text, seconds: text, within: text } });
  const given = values.seed ?? process.env["COREGENT_SEED"];
  const seed =
    given === undefined || given === "" ? Math.floor(Date.now() / 1000) : wholeNumber(given, "--seed", 0);
  const lengthMs = wholeNumber(values.seconds ?? "120", "--seconds", 1) * 1000;
  const withinMs = wholeNumber(values.within ?? "3000", "--within", 1);
  say(`seed ${seed}, ${lengthMs / 1000} s`);
  await using cluster = await startRegions();
  const { problems, summary, waits } = await playFailover(cluster, {
    seed,
    episodes: episodesOf(seed, regions),
    lengthMs,
    withinMs,
    note: (line) => say(`  ${line}`),
  });
  for (const line of summary) say(line);
  const [load = 0] = loadavg();
  if (waits.some(({ ms }) => ms > withinMs))
    say(`(load of this machine in the last minute: ${load.toFixed(1)} on ${availableParallelism()} cores)`);
  if (problems.length > 0) for (const { agent } of cluster.regions) say(await agent.tail(25));
  // Last, since of a long output people and CI see the end.
  for (const line of problems) say(`WRONG: ${line}`);
  if (problems.length > 0)
    say(`again: npm run test:failover -- --seed ${seed} --seconds ${lengthMs / 1000} --within ${withinMs}`);
  say(problems.length === 0 ? "passed" : `failed: ${problems.length} things are wrong`);
  process.exitCode = problems.length === 0 ? 0 : 1;
};

try {
  await main();
} catch (error) {
  const mistaken = error instanceof Error && error.message.startsWith("--");
  process.stderr.write(`${error instanceof Error && !mistaken ? error.stack : String(error)}\n${usage}`);
  process.exitCode = 2;
}
process.exit();
