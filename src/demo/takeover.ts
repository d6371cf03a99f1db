import { ask, mustAsk, type Answer } from "./endpoint.ts";
import { elapsed } from "./narrator.ts";
import { regionNamed, type Tour, waiting } from "./tour.ts";
import { waitFor, waitUntilEqual } from "./watching.ts";

/** The outage ends by itself after so long, should the demo be killed before it heals it. */
const outageMs = 30_000;
const outageId = "tour";

export interface TakeoverReport {
  readonly owner: string;
  /** The endpoint that is asked. */
  readonly endpoint: string;
  /** Who wrote before, during and after the outage; null: nobody in time. */
  readonly wroteBefore: string | null;
  readonly wroteDuring: string | null;
  readonly wroteAfter: string | null;
  readonly takeover: boolean;
  /** From the outage's beginning until the row could be written again; null: not within a minute. */
  readonly acceptedMs: number | null;
  /** From healing until all regions were equal; null: not within a minute. */
  readonly equalMs: number | null;
  /** From healing until the owner wrote again; null: not within a minute. */
  readonly ownerBackMs: number | null;
}

interface Workout {
  readonly id: string;
  readonly minutes: number;
}

/** Argentina is out; who writes to a row of its own in Moldova is served all the same; then it comes back. */
export const showTakeover = async (tour: Tour): Promise<TakeoverReport> => {
  const { narrator, cluster } = tour;
  const owner = regionNamed(tour, "argentina");
  const endpoint = regionNamed(tour, "moldova");
  narrator.chapter(`An outage: ${owner.region.name} is away, and its rows are taken over`);
  const { body } = await mustAsk<readonly Workout[]>(endpoint, {
    path: `/v1/tables/workouts/rows?home_region=eq.${owner.region.name}&order=started_at.desc&limit=1`,
  });
  const [workout] = body;
  if (workout === undefined) {
    throw new Error(`there is no workout of ${owner.region.name}`);
  }
  let minutes = workout.minutes;
  const write = (): Promise<Answer<unknown>> => {
    minutes = (minutes % 60) + 1;
    const path = `/v1/tables/workouts/rows/${workout.id}`;
    return ask(endpoint, { method: "PATCH", path, body: { minutes } });
  };
  const before = await write();
  narrator.line(
    endpoint.region.name,
    `is sent a write to a row of ${owner.region.name}: ${before.region ?? "nobody"} writes it, in ${elapsed(before.tookMs)}`,
  );
  for (const region of cluster.regions) {
    await mustAsk(region, {
      method: "POST",
      path: "/v1/admin/outages",
      body: { id: outageId, kind: "region", region: owner.region.name, forMs: outageMs },
      token: tour.adminToken,
    });
  }
  try {
    return await whileAway(tour, { endpoint, owner, write, wroteBefore: before.region });
  } finally {
    await heal(tour);
  }
};

const heal = async ({ cluster, adminToken }: Tour): Promise<void> => {
  for (const region of cluster.regions) {
    await ask(region, { method: "DELETE", path: `/v1/admin/outages/${outageId}`, token: adminToken }).catch(
      () => undefined,
    );
  }
};

interface Scene {
  readonly endpoint: Tour["cluster"]["regions"][number];
  readonly owner: Tour["cluster"]["regions"][number];
  readonly write: () => Promise<Answer<unknown>>;
  readonly wroteBefore: string | null;
}

const whileAway = async (
  tour: Tour,
  { endpoint, owner, write, wroteBefore }: Scene,
): Promise<TakeoverReport> => {
  const { narrator } = tour;
  const [here, away] = [endpoint.region.name, owner.region.name];
  narrator.working(`${away} is away; writing to the same row in ${here}`);
  const began = performance.now();
  const during = await writeUntil(tour, write, ({ takeover }) => takeover);
  const acceptedMs = during === null ? null : performance.now() - began;
  narrator.line(
    "outage",
    during === null
      ? `nobody took a write to the row of ${away}`
      : `${during.region ?? "nobody"} takes over (Coregent-Takeover: true): written ${elapsed(acceptedMs ?? 0)} after the outage began`,
  );
  await heal(tour);
  const healed = performance.now();
  narrator.working(`${away} is back; waiting until all regions are equal`);
  const rows = await waitUntilEqual([...tour.sessions.values()], waiting(tour));
  const equalMs = rows === null ? null : performance.now() - healed;
  narrator.line(
    "healed",
    equalMs === null ? "not equal within a minute" : `all regions equal after ${elapsed(equalMs)}`,
  );
  narrator.working(`waiting until ${away} writes its rows itself again`);
  const after = await writeUntil(tour, write, ({ region }) => region === away);
  const ownerBackMs = after === null ? null : performance.now() - healed;
  narrator.line(
    away,
    ownerBackMs === null
      ? "does not write its rows again"
      : `writes its rows itself again after ${elapsed(ownerBackMs)}`,
  );
  return {
    owner: away,
    endpoint: here,
    wroteBefore,
    wroteDuring: during?.region ?? null,
    wroteAfter: after?.region ?? null,
    takeover: during?.takeover ?? false,
    acceptedMs,
    equalMs,
    ownerBackMs,
  };
};

/** Writes again and again until an answer is as wanted. @returns it; null: not in time */
const writeUntil = async (
  tour: Tour,
  write: () => Promise<Answer<unknown>>,
  wanted: (answer: Answer<unknown>) => boolean,
): Promise<Answer<unknown> | null> => {
  let last: Answer<unknown> | null = null;
  const found = await waitFor(
    async () => {
      last = await write();
      return last.status === 200 && wanted(last);
    },
    waiting(tour, 100),
  );
  return found ? last : null;
};
