import type { LogEntry } from "../convergence/history.ts";
import { type Done, type Effect, mayBeDone, type Missed } from "./record.ts";

/** Whether what the clients were told is what was done. Pure. What became of it afterwards is convergence/history.ts's. */

export interface Told {
  readonly requests: readonly Done[];
  readonly missed: readonly Missed[];
}

/** Of each request's effects, one a transaction; what a statement did to a row twice counts once. */
const byToken = (effects: readonly Effect[]): Map<string, Effect[]> => {
  const found = new Map<string, Map<string, Effect>>();
  for (const effect of effects) {
    const token = effect.content?.["token"];
    if (token === null || token === undefined) continue;
    const once = found.get(token) ?? new Map<string, Effect>();
    found.set(token, once.set(`${effect.region} ${effect.xid} ${effect.key}`, effect));
  }
  return new Map([...found].map(([token, once]) => [token, [...once.values()]]));
};

const at = ({
  region,
  table,
  key,
  version,
}: Omit<Effect, "xid" | "op" | "base" | "prev" | "content">): string =>
  `${region} ${table} ${key} ${version}`;

/** What is wrong, a line each. */
export const problemsOf = ({ requests, missed }: Told, effects: readonly Effect[]): string[] => {
  const all = byToken(effects);
  const written = new Map(effects.map((effect) => [at(effect), effect]));
  const known = new Set(requests.map(({ token }) => token));
  return [
    ...[...together(requests).values()].flatMap(problemsOfAnswers),
    ...problemsOfTransactions(requests, effects),
    ...requests.flatMap((request) => problemsOfEffects(request, all.get(request.token) ?? [], written)),
    ...problemsOfDeletes(requests, effects),
    ...[...all.keys()].filter((token) => !known.has(token)).map((token) => `nobody asked for ${token}`),
    ...missed.flatMap((miss) => problemsOfMissed(miss, effects)),
  ];
};

/** What was sent as one: the operations of a transaction, or a single write. */
const together = (requests: readonly Done[]): Map<string, [Done, ...Done[]]> => {
  const found = new Map<string, [Done, ...Done[]]>();
  for (const request of requests) {
    const name = request.transaction ?? request.token;
    const others = found.get(name);
    if (others === undefined) found.set(name, [request]);
    else others.push(request);
  }
  return found;
};

/** Where one operation of a transaction was done, all of them were, by one commit. A tombstone does not say who made it. */
const problemsOfTransactions = (requests: readonly Done[], effects: readonly Effect[]): string[] => {
  const commits = new Map<string, { readonly tokens: Set<string>; readonly deleted: Set<string> }>();
  for (const { region, xid, table, key, content } of effects) {
    const name = `${region} ${xid}`;
    const commit = commits.get(name) ?? { tokens: new Set(), deleted: new Set() };
    commits.set(name, commit);
    const token = content?.["token"];
    if (token === null || token === undefined) commit.deleted.add(`${table} ${key}`);
    else commit.tokens.add(token);
  }
  return [...together(requests)].flatMap(([name, parts]) => {
    const isIn = ({ tokens, deleted }: { tokens: Set<string>; deleted: Set<string> }, part: Done): boolean =>
      part.kind === "delete"
        ? deleted.has(`${part.table} ${JSON.stringify([part.id])}`)
        : tokens.has(part.token);
    if (parts.length === 1) return [];
    const written = parts.filter(({ kind }) => kind !== "delete");
    return [...commits].flatMap(([commit, what]) => {
      const missing = parts.filter((part) => !isIn(what, part));
      return missing.length > 0 && written.some((part) => isIn(what, part))
        ? [`transaction ${name} was done in part by ${commit}, without ${missing.map(describe).join("; ")}`]
        : [];
    });
  });
};

const describe = ({ kind, table, token, idempotencyKey, ending }: Done): string =>
  `${kind} ${token} of ${table}${idempotencyKey === null ? "" : " (with an idempotency key)"}, ${ending}`;

/** What a client that did nothing wrong may be told all the same, and then nothing was done. */
const mayBeRefused = (request: Done, code: string): boolean => {
  switch (code) {
    case "row-not-found":
      return request.kind === "update" || request.kind === "delete";
    case "version-mismatch":
      return request.ifMatch !== null;
    case "unique-violation":
      return request.kind === "insert" && request.id !== null;
    default:
      return false;
  }
};

/**
 * Every error is to be sent again, but for refusals, outcomes that nobody knows since there was no key, and what is committed
 * and not yet where it was asked to be.
 */
const problemsOfAnswers = (parts: readonly [Done, ...Done[]]): string[] => {
  const [request] = parts;
  const { ending, accepted, durable } = request;
  const promised = ending === "acknowledged" && durable !== null && (accepted?.durable ?? 0) < durable;
  const unheard = promised ? [`${describe(request)}: not said to be in ${durable} further regions`] : [];
  const said = request.attempts.flatMap(({ endpoint, status, code, retryable, hasRetryAfter, detail }) => {
    if (code === "silent") return [`${describe(request)}: ${endpoint} did not answer`];
    if (status === null || code === null) return [];
    const said = `${describe(request)}: ${endpoint} answered ${status} ${code} (${detail})`;
    if (code === "outcome-unknown") {
      const wanted = request.idempotencyKey !== null;
      return retryable === wanted ? [] : [`${said}, ${retryable ? "" : "not "}to be sent again`];
    }
    if (code === "not-durable-yet" && durable !== null) return retryable ? [`${said}, to be sent again`] : [];
    if (parts.some((part) => mayBeRefused(part, code))) return retryable ? [`${said}, to be sent again`] : [];
    if (!retryable) return [`${said}, not to be sent again`];
    return status === 503 && !hasRetryAfter ? [`${said} without Retry-After`] : [];
  });
  return [...unheard, ...said];
};

const problemsOfEffects = (
  request: Done,
  effects: readonly Effect[],
  written: ReadonlyMap<string, Effect>,
): string[] => {
  const said = describe(request);
  const problems: string[] = [];
  const { accepted, ending, kind, ifMatch, attempts } = request;
  if (accepted !== null) {
    const effect = written.get(at({ ...accepted, table: request.table }));
    const own = kind === "delete" ? effect?.op === "delete" : effect?.content?.["token"] === request.token;
    if (!own)
      problems.push(
        `${said}: ${accepted.region} has no such effect, ${accepted.key} ${accepted.version}${accepted.replayed ? " (replayed)" : ""}; ` +
          `it has done ${effects.map((each) => `${each.op} ${at(each)} upon ${each.prev}`).join("; ") || "nothing"}`,
      );
  }
  if (effects.length > 1 && !mayBeTwice(request, effects))
    problems.push(`${said}: done ${effects.length} times: ${effects.map(at).join("; ")}`);
  const undecided = attempts.some(mayBeDone);
  if ((ending === "refused" || ending === "given up") && !undecided && effects.length > 0)
    problems.push(`${said} with ${attempts.at(-1)?.code}: done all the same: ${effects.map(at).join("; ")}`);
  for (const effect of effects) {
    if (ifMatch !== null && effect.prev !== ifMatch)
      problems.push(`${said}: wrote upon ${effect.prev} instead of ${ifMatch}, which If-Match named`);
  }
  return problems;
};

/**
 * In different regions, across a partition. New rows whose key all regions choose alike, by the idempotency key or since the
 * endpoint has made it, are one row in the end; of anything else with an idempotency key the answer must have said that once
 * only cannot be promised, if there was an answer.
 */
const mayBeTwice = (request: Done, effects: readonly Effect[]): boolean => {
  if (new Set(effects.map(({ region }) => region)).size < effects.length) return false;
  const { kind, id, idempotencyKey, accepted, transaction } = request;
  if (transaction === null && kind === "insert" && (idempotencyKey !== null || id === null))
    return new Set(effects.map(({ key }) => key)).size === 1;
  return idempotencyKey !== null && (accepted === null || accepted.onceOnly === false);
};

/** A tombstone does not say who deleted: those that no 2xx tells of are as many as requests that may have done it, or fewer. */
const problemsOfDeletes = (requests: readonly Done[], effects: readonly Effect[]): string[] => {
  const deletes = requests.filter(({ kind }) => kind === "delete");
  const told = new Set(
    deletes.flatMap(({ accepted, table }) => (accepted === null ? [] : [at({ ...accepted, table })])),
  );
  const perhaps = Map.groupBy(
    deletes.flatMap(({ attempts, table, id }) =>
      attempts.filter(mayBeDone).map(() => `${table} ${JSON.stringify([id])}`),
    ),
    (place) => place,
  );
  const untold = Map.groupBy(
    effects.filter((effect) => effect.op === "delete" && !told.has(at(effect))),
    ({ table, key }) => `${table} ${key}`,
  );
  return [...untold].flatMap(([place, found]) =>
    found.length > (perhaps.get(place)?.length ?? 0)
      ? [`${place} was deleted ${found.length} times more than was answered: ${found.map(at).join("; ")}`]
      : [],
  );
};

const problemsOfMissed = (miss: Missed, effects: readonly Effect[]): string[] => {
  const gone = effects.some(
    ({ op, table, key, base, version }) =>
      op === "delete" &&
      table === miss.table &&
      key === miss.key &&
      (base > miss.base || (base === miss.base && version >= miss.version)),
  );
  return gone
    ? []
    : [
        `${miss.client} was told that ${miss.table} ${miss.key} is not there, after it had seen ${miss.version}`,
      ];
};

/** Acknowledged writes that another one outranked unseen. */
export const outranked = (requests: readonly Done[], log: readonly LogEntry[]): number => {
  const losers = new Set(log.map(({ table, key, loser }) => `${table} ${key} ${loser}`));
  return requests.filter(
    ({ accepted, table }) => accepted !== null && losers.has(`${table} ${accepted.key} ${accepted.version}`),
  ).length;
};
