import type { Done } from "./record.ts";

/** How long writes were not accepted after a master's death. Pure; times in milliseconds of one clock. */

/** A master that is gone for those who could write there. */
export interface Death {
  readonly region: string;
  /** For people. */
  readonly how: string;
  /** When it began to die, */
  readonly atMs: number;
  /** and when it surely accepted nothing more. */
  readonly deadMs: number;
}

/** An endpoint that could not be asked, or that could reach no master, from then to then. */
export interface Away {
  readonly endpoint: string;
  readonly fromMs: number;
  /** null: still. */
  readonly toMs: number | null;
}

/** Writes for one table's rows of one owner, through one endpoint. */
export interface Lane {
  readonly endpoint: string;
  readonly table: string;
  readonly owner: string | null;
}

export interface Wait {
  readonly death: Death;
  /** Where it took longest. */
  readonly lane: Lane;
  /** From the death, or from that of another master meanwhile; Infinity: never again. */
  readonly ms: number;
  /** What was accepted then. */
  readonly first: Done | null;
}

interface Moment {
  readonly startMs: number;
  readonly endMs: number;
  readonly region: string;
  readonly request: Done;
}

const laneName = ({ endpoint, table, owner }: Lane): string => `${endpoint} ${table} ${owner ?? ""}`;

/** Acceptances by lane, in the order in which they were answered. */
const acceptances = (requests: readonly Done[]): Map<string, Moment[]> => {
  const lanes = new Map<string, Moment[]>();
  for (const request of requests) {
    const { attempts, accepted, table, owner } = request;
    const last = attempts.at(-1);
    if (accepted === null || last === undefined) continue;
    const name = laneName({ endpoint: last.endpoint, table, owner });
    const lane = lanes.get(name) ?? [];
    lanes.set(name, lane);
    lane.push({ startMs: last.startMs, endMs: last.endMs, region: accepted.region, request });
  }
  for (const lane of lanes.values()) lane.sort((a, b) => a.endMs - b.endMs);
  return lanes;
};

export interface WaitFacts {
  readonly deaths: readonly Death[];
  readonly away: readonly Away[];
  readonly lanes: readonly Lane[];
  readonly requests: readonly Done[];
  /** How long it may take. */
  readonly withinMs: number;
}

/** Of each death the longest wait, over all endpoints that a client could ask. */
export const waitsOf = ({ deaths, away, lanes, requests, withinMs }: WaitFacts): Wait[] => {
  const accepted = acceptances(requests);
  return deaths.flatMap((death) => {
    const waits = lanes.flatMap((lane): Wait[] => {
      const first = accepted
        .get(laneName(lane))
        ?.find(
          ({ startMs, endMs, region }) =>
            startMs >= death.deadMs || (endMs >= death.atMs && region !== death.region),
        );
      const endMs = first?.endMs ?? Infinity;
      const gone = away.some(
        ({ endpoint, fromMs, toMs }) =>
          endpoint === lane.endpoint && fromMs < endMs && (toMs ?? Infinity) > death.atMs,
      );
      const before = deaths.filter(({ atMs }) => atMs < endMs);
      const ms = endMs - lastDeathMs(death, before, withinMs);
      return gone ? [] : [{ death, lane, ms, first: first?.request ?? null }];
    });
    return waits.toSorted((a, b) => b.ms - a.ms).slice(0, 1);
  });
};

/** When the last master died, of those that did so before it had to be over with the one before. */
const lastDeathMs = (death: Death, deaths: readonly Death[], withinMs: number): number =>
  deaths
    .map(({ atMs }) => atMs)
    .toSorted((a, b) => a - b)
    .reduce((latest, atMs) => (atMs > latest && atMs <= latest + withinMs ? atMs : latest), death.atMs);

export const tooLong = (waits: readonly Wait[], withinMs: number): string[] =>
  waits
    .filter(({ ms }) => ms > withinMs)
    .map(
      ({ death, lane, ms, first }) =>
        `after ${death.region} died (${death.how}), writes of ${lane.table}'s rows of ${lane.owner ?? "nobody"} ` +
        `were accepted again at the endpoint of ${lane.endpoint} after ${(ms / 1000).toFixed(2)} s, more than ${withinMs / 1000} s${first === null ? "" : `: ${storyOf(first)}`}`,
    );

const storyOf = ({ kind, token, idempotencyKey, attempts }: Done): string => {
  const sent = attempts.map(
    ({ startMs, endMs, code }) => `${code ?? "accepted"} in ${(endMs - startMs).toFixed(0)} ms`,
  );
  return `${kind} ${token}${idempotencyKey === null ? "" : " with an idempotency key"}, ${sent.join(", ")}`;
};
