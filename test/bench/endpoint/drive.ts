import process from "node:process";
import { pauseMs } from "../sql.ts";
import { quantile } from "../statistics.ts";
import type { LoadPlan, LoadReport } from "./plan.ts";

/** One connection, with one request under way at most. */
export interface Lane {
  /** `done` with what is wrong with the answer, or null. */
  send(n: number, done: (wrong: string | null) => void): void;
}

const maxFailures = 10;

/** Rows from..from+count-1 over the lanes. */
const drive = async (
  lanes: readonly Lane[],
  { from, count, perSecond }: Pick<LoadPlan, "from" | "count" | "perSecond">,
): Promise<{ readonly latencies: Float64Array; readonly failures: string[] }> => {
  const latencies = new Float64Array(count);
  const failures: string[] = [];
  const { promise, resolve } = Promise.withResolvers<void>();
  const startedAt = performance.now();
  const dueAt = (i: number): number => startedAt + (i / (perSecond ?? 1)) * 1000;
  const idle: Lane[] = [];
  let next = 0;
  let answered = 0;
  const work = (lane: Lane): void => {
    const i = next;
    if (i >= count || (perSecond !== null && dueAt(i) > performance.now())) {
      idle.push(lane);
      return;
    }
    next += 1;
    const since = perSecond === null ? performance.now() : dueAt(i);
    lane.send(from + i, (wrong) => {
      latencies[i] = performance.now() - since;
      if (wrong !== null && failures.length < maxFailures) failures.push(`row ${from + i}: ${wrong}`);
      answered += 1;
      if (answered === count) resolve();
      work(lane);
    });
  };
  for (const lane of lanes) work(lane);
  while (perSecond !== null && next < count) {
    await pauseMs(1);
    for (const lane of idle.splice(0)) work(lane);
  }
  await promise;
  return { latencies, failures };
};

/** Does what the plan says, and prints the report. */
export const runPlan = async (plan: LoadPlan, lanes: readonly Lane[]): Promise<void> => {
  const early = plan.warmUp === 0 ? [] : (await drive(lanes, { ...plan, count: plan.warmUp })).failures;
  const cpuBefore = process.cpuUsage();
  const startedAt = performance.now();
  const { latencies, failures } = await drive(lanes, { ...plan, from: plan.from + plan.warmUp });
  const seconds = (performance.now() - startedAt) / 1000;
  const { user, system } = process.cpuUsage(cpuBefore);
  const report: LoadReport = {
    seconds,
    p50Ms: quantile([...latencies], 0.5),
    p99Ms: quantile([...latencies], 0.99),
    cpuSeconds: (user + system) / 1e6,
    failures: [...early, ...failures],
  };
  process.stdout.write(JSON.stringify(report));
};
