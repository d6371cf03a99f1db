import type { Client } from "pg";
import { weightbookLatencyMs } from "../../regions/weightbook.ts";
import { grouped } from "../cli/status-text.ts";
import type { DemoCluster, RunningRegion } from "./cluster.ts";
import { generatePeople } from "./generator.ts";
import { insertPerson } from "./load.ts";
import { mustAsk } from "./endpoint.ts";
import { elapsed, type Narrator } from "./narrator.ts";
import { seeded } from "./random.ts";
import { waitFor, waitUntilEqual, type WaitOptions } from "./watching.ts";
import { writeUntil, type WriteStatistics } from "./writers.ts";

/**
 * What the tour needs. Single rows are written at the endpoints, as applications do it; its sessions go straight to the
 * regions' databases, to load much at once and to watch.
 */
export interface Tour {
  readonly cluster: DemoCluster;
  readonly narrator: Narrator;
  readonly seed: number;
  /** Milliseconds since 1970. */
  readonly nowMs: number;
  readonly signal: AbortSignal;
  readonly sessions: ReadonlyMap<string, Client>;
  /** For the endpoints' admin addresses. */
  readonly adminToken: string;
}

const convergence = { timeoutMs: 60_000, everyMs: 20 };
const peoplePerRegion = 40;
const partitionMs = 2000;

const sessionOf = (tour: Tour, region: RunningRegion): Client => {
  const client = tour.sessions.get(region.region.name);
  if (client === undefined) {
    throw new Error(`no session with ${region.region.name}`);
  }
  return client;
};

export const regionNamed = (tour: Tour, name: string): RunningRegion => {
  const found = tour.cluster.regions.find(({ region }) => region.name === name);
  if (found === undefined) {
    throw new Error(`the demo has no region ${name}`);
  }
  return found;
};

export const waiting = (tour: Tour, everyMs = convergence.everyMs): WaitOptions => ({
  ...convergence,
  everyMs,
  signal: tour.signal,
});

export interface LoadReport {
  readonly rowsWritten: number;
  readonly writeMs: number;
  /** From the first write until every region held all of it; null: not within a minute. */
  readonly everywhereMs: number | null;
}

/** Each region writes its own people's history, all at once. */
export const loadData = async (tour: Tour): Promise<LoadReport> => {
  const { cluster, narrator } = tour;
  narrator.chapter("Every region writes its own data, all at the same time");
  narrator.working("writing the history of 120 people");
  const started = performance.now();
  const counts = await Promise.all(cluster.regions.map((region) => loadRegion(tour, region)));
  const writeMs = performance.now() - started;
  narrator.working("waiting until every region holds all of it");
  const rows = await waitUntilEqual([...tour.sessions.values()], waiting(tour));
  const everywhereMs = rows === null ? null : performance.now() - started;
  const rowsWritten = counts.reduce((a, b) => a + b, 0);
  if (rowsWritten === 0) {
    narrator.line("all", `the data of the last time are there: ${grouped(rows ?? 0)} rows`);
  } else {
    narrator.line(
      "all",
      `${grouped(rowsWritten)} rows in ${grouped(peoplePerRegion * cluster.regions.length)} transactions, written in ${elapsed(writeMs)}`,
    );
    narrator.line(
      "all",
      everywhereMs === null
        ? "not equal within a minute"
        : `every region held all of them after ${elapsed(everywhereMs)}`,
    );
  }
  return { rowsWritten, writeMs, everywhereMs };
};

const loadRegion = async (tour: Tour, region: RunningRegion): Promise<number> => {
  const client = sessionOf(tour, region);
  const { name } = region.region;
  const { rowCount } = await client.query("SELECT FROM public.users WHERE home_region = $1 LIMIT 1", [name]);
  if (rowCount !== 0) {
    return 0;
  }
  let rows = 0;
  const people = { seed: tour.seed, region: name, people: peoplePerRegion, weeks: 26, nowMs: tour.nowMs };
  for (const person of generatePeople(people)) {
    tour.signal.throwIfAborted();
    rows += await insertPerson(client, person);
  }
  return rows;
};

export interface VisibilityReport {
  readonly source: string;
  readonly commitMs: number;
  /** By region, from the commit's answer; null: not within a minute. */
  readonly seenMs: Readonly<Record<string, number | null>>;
}

/** One row written at each region's endpoint in turn, watched in the databases of the other two. */
export const showWrites = async (tour: Tour): Promise<VisibilityReport[]> => {
  const { narrator, cluster } = tour;
  narrator.chapter("A write at a region's endpoint, seen elsewhere");
  const reports: VisibilityReport[] = [];
  for (const source of cluster.regions) {
    const report = await watchWrite(tour, source);
    const seen = Object.entries(report.seenMs).map(([name, ms]) => {
      const lineMs = weightbookLatencyMs(source.region, regionNamed(tour, name).region);
      return `${name} ${ms === null ? "not within a minute" : `after ${elapsed(ms)} (the line takes ${lineMs})`}`;
    });
    narrator.line(report.source, `answered in ${elapsed(report.commitMs)}; seen by ${seen.join(", by ")}`);
    reports.push(report);
  }
  return reports;
};

const watchWrite = async (tour: Tour, source: RunningRegion): Promise<VisibilityReport> => {
  const name = source.region.name;
  const users = await mustAsk<readonly { id: string }[]>(source, {
    path: `/v1/tables/users/rows?home_region=eq.${name}&select=id&order=id&limit=1`,
  });
  const started = performance.now();
  const written = await mustAsk<{ id: string }>(source, {
    method: "POST",
    path: "/v1/tables/weigh_ins/rows",
    body: { user_id: users.body[0]?.id, weight_kg: "72.50", note: `written in ${name}` },
  });
  const committed = performance.now();
  const others = tour.cluster.regions.filter((region) => region !== source);
  const seen = await Promise.all(
    others.map(async (region): Promise<[string, number | null]> => {
      const look = async (): Promise<boolean> => {
        const found = await sessionOf(tour, region).query("SELECT FROM public.weigh_ins WHERE id = $1", [
          written.body.id,
        ]);
        return found.rowCount === 1;
      };
      const inTime = await waitFor(look, waiting(tour, 1));
      return [region.region.name, inTime ? performance.now() - committed : null];
    }),
  );
  return { source: name, commitMs: committed - started, seenMs: Object.fromEntries(seen) };
};

export interface PartitionReport {
  readonly cutOff: string;
  readonly writes: Readonly<Record<string, WriteStatistics>>;
  /** From healing until all regions were equal; null: not within a minute. */
  readonly healedMs: number | null;
  readonly conflict: ConflictReport;
}

export interface ConflictReport {
  readonly owner: string;
  readonly ownerWrote: number;
  readonly otherWrote: number;
  /** The value in every region after healing; more than one would be a divergence. */
  readonly kept: readonly number[];
  /** What the conflict log of each region holds of the loser. */
  readonly logged: Readonly<Record<string, readonly LoggedLoser[]>>;
}

interface LoggedLoser {
  readonly type: string;
  readonly minutes: string | null;
}

/** New Zealand is cut off; everybody goes on writing; one row is changed on both sides; then the line heals. */
export const showPartition = async (tour: Tour): Promise<PartitionReport> => {
  const { narrator, cluster } = tour;
  const cutOff = regionNamed(tour, "new-zealand");
  const owner = regionNamed(tour, "argentina");
  narrator.chapter(`A partition: ${cutOff.region.name} is cut off from both others`);
  const others = cluster.regions.filter((region) => region !== cutOff);
  for (const { region } of others) {
    cluster.network.cut(cutOff.region.name, region.name, {});
  }
  try {
    return await whilePartitioned(tour, { owner, cutOff });
  } finally {
    cluster.network.heal();
  }
};

interface Sides {
  readonly owner: RunningRegion;
  readonly cutOff: RunningRegion;
}

const whilePartitioned = async (tour: Tour, { owner, cutOff }: Sides): Promise<PartitionReport> => {
  const { narrator, cluster } = tour;
  narrator.working(`for ${partitionMs / 1000} s everybody goes on writing`);
  const untilMs = performance.now() + partitionMs;
  const writing = cluster.regions.map(async (region): Promise<[string, WriteStatistics]> => {
    const { name } = region.region;
    const random = seeded(tour.seed, `${name} partition`);
    return [
      name,
      await writeUntil(sessionOf(tour, region), { region: name, random, untilMs, signal: tour.signal }),
    ];
  });
  const [conflicting, ...written] = await Promise.all([makeConflict(tour, { owner, cutOff }), ...writing]);
  const writes = Object.fromEntries(written);
  for (const [name, statistics] of written) {
    const failed = statistics.failed === 0 ? "none failed" : `${statistics.failed} FAILED`;
    narrator.line(
      name,
      `${grouped(statistics.writes)} writes, ${failed}; median ${elapsed(statistics.medianMs)}, slowest ${elapsed(statistics.slowestMs)}`,
    );
  }
  narrator.line(owner.region.name, `sets a workout of its own to ${conflicting.ownerWrote} minutes`);
  narrator.line(
    cutOff.region.name,
    `sets the same one, a second later, to ${conflicting.otherWrote}: neither knows of the other`,
  );

  cluster.network.heal();
  const healed = performance.now();
  narrator.working("the line is healed; waiting until all regions are equal");
  const rows = await waitUntilEqual([...tour.sessions.values()], waiting(tour));
  const healedMs = rows === null ? null : performance.now() - healed;
  narrator.line(
    "healed",
    healedMs === null ? "not equal within a minute" : `all regions equal after ${elapsed(healedMs)}`,
  );
  const conflict = await readConflict(tour, conflicting, owner);
  tellConflict(tour, conflict);
  return { cutOff: cutOff.region.name, writes, healedMs, conflict };
};

interface Conflicting {
  readonly id: string;
  readonly ownerWrote: number;
  readonly otherWrote: number;
}

const makeConflict = async (tour: Tour, { owner, cutOff }: Sides): Promise<Conflicting> => {
  const { rows } = await sessionOf(tour, owner).query<{ id: string; minutes: number }>(
    "SELECT id, minutes FROM public.workouts WHERE home_region = $1 ORDER BY started_at DESC, id LIMIT 1",
    [owner.region.name],
  );
  const [workout] = rows;
  if (workout === undefined) {
    throw new Error(`there is no workout of ${owner.region.name}`);
  }
  // Values that differ from what is there, also when the tour is repeated on the same data.
  const ownerWrote = 30 + ((workout.minutes + 7) % 60);
  const otherWrote = 100 + ownerWrote;
  const update = "UPDATE public.workouts SET minutes = $2 WHERE id = $1";
  await sessionOf(tour, owner).query(update, [workout.id, ownerWrote]);
  await new Promise((resolve) => setTimeout(resolve, 1000));
  await sessionOf(tour, cutOff).query(update, [workout.id, otherWrote]);
  return { id: workout.id, ownerWrote, otherWrote };
};

const readConflict = async (
  tour: Tour,
  { id, ownerWrote, otherWrote }: Conflicting,
  owner: RunningRegion,
): Promise<ConflictReport> => {
  const logged: Record<string, LoggedLoser[]> = {};
  // Two regions find it, and each report has to reach the others: until all logs are alike.
  const read = async (): Promise<boolean> => {
    const reports = new Set<string>();
    for (const [region, client] of tour.sessions) {
      const { rows } = await client.query<LoggedLoser & { reporter: number }>(
        `SELECT type, loser_row ->> 'minutes' AS minutes, detected_in AS reporter FROM coregent.conflict
          WHERE table_name = 'public.workouts' AND key = jsonb_build_array($1::text)::text
          ORDER BY loser_version DESC, detected_in`,
        [id],
      );
      reports.add(JSON.stringify(rows));
      logged[region] = rows.slice(0, 1).map(({ type, minutes }) => ({ type, minutes }));
    }
    const found = Object.values(logged).every(([loser]) => loser?.minutes === String(otherWrote));
    return found && reports.size === 1;
  };
  await waitFor(read, { ...waiting(tour), timeoutMs: 10_000 });
  const kept = await Promise.all(
    [...tour.sessions.values()].map(async (client) => {
      const { rows } = await client.query<{ minutes: number }>(
        "SELECT minutes FROM public.workouts WHERE id = $1",
        [id],
      );
      return rows[0]?.minutes ?? NaN;
    }),
  );
  return { owner: owner.region.name, ownerWrote, otherWrote, kept: [...new Set(kept)], logged };
};

const tellConflict = ({ narrator }: Tour, conflict: ConflictReport): void => {
  const [kept] = conflict.kept;
  const agreed = conflict.kept.length === 1;
  const why =
    kept === conflict.ownerWrote
      ? `${conflict.owner} owns the row, so its write stays`
      : "the later write stays";
  narrator.line(
    "conflict",
    agreed ? `every region keeps ${kept} minutes: ${why}` : `regions keep ${conflict.kept.join(" and ")}`,
  );
  const holders = Object.entries(conflict.logged).filter(([, losers]) => losers.length > 0);
  const loser = holders[0]?.[1][0];
  if (loser !== undefined) {
    narrator.line(
      "",
      `the write of ${loser.minutes} minutes is whole in the conflict log of ${holders.length} regions (${loser.type})`,
    );
  }
};
