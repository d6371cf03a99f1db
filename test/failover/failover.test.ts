import { expect, test } from "vitest";
import { playFailover, startRegions } from "./play.ts";
import type { Episode } from "./schedule.ts";

/** The schedule of `npm run test:failover` in short: two masters die, one with its agent, one region is left. */
const episodes: readonly Episode[] = [
  {
    faults: [
      { kind: "kill server", region: "b", afterMs: 0, forMs: 2_000 },
      { kind: "kill both", region: "c", afterMs: 700, forMs: 1_500 },
    ],
  },
];

test("while two of three masters die and return, every answer is kept, and the third region takes all writes", async () => {
  await using cluster = await startRegions();
  const { problems, waits, summary } = await playFailover(cluster, {
    seed: 1,
    episodes,
    lengthMs: 60_000,
    // How soon, with nobody else on the machine, is judged by the script.
    withinMs: 20_000,
    note: () => undefined,
  });
  expect(problems, summary.join("\n")).toEqual([]);
  expect(waits.map(({ death }) => `${death.how} ${death.region}`)).toEqual(["kill server b", "kill both c"]);
}, 120_000);
