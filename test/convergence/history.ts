/** What was written, as the writing sessions saw it, and whether it must stay in one form or another. Pure. */

export interface KeyState {
  readonly kind: "row" | "tombstone";
  readonly base: bigint;
  readonly version: bigint;
  readonly prev: bigint;
  readonly seen: readonly bigint[];
  /** Column -> text form; null for a tombstone. */
  readonly content: Readonly<Record<string, string | null>> | null;
}

export interface Write extends KeyState {
  readonly table: string;
  /** As the conflict log has it: a JSON array of the key columns' text forms. */
  readonly key: string;
  readonly region: string;
}

/** `unknown`: the connection died during COMMIT. */
export type Outcome = "acknowledged" | "unknown" | "aborted";

export interface LogEntry {
  readonly table: string;
  readonly key: string;
  readonly loser: bigint;
  readonly type: string;
  readonly content: Readonly<Record<string, string | null>> | null;
}

interface Recorded {
  readonly write: Write;
  outcome: Outcome;
  /** The last write of its transaction to its key; the others of it can be seen by nobody. */
  last: boolean;
}

const rank: Readonly<Record<Outcome, number>> = { aborted: 0, unknown: 1, acknowledged: 2 };

export const place = (table: string, key: string): string => `${table} ${key}`;

export const compareKeyStates = (a: KeyState, b: KeyState): number => {
  if (a.base !== b.base) return a.base < b.base ? -1 : 1;
  if (a.version !== b.version) return a.version < b.version ? -1 : 1;
  return 0;
};

/** All writes of a schedule to contended keys. */
export class History {
  readonly #byPlace = new Map<string, Map<bigint, Recorded>>();
  readonly #counts: Record<Outcome, number> = { acknowledged: 0, unknown: 0, aborted: 0 };

  get counts(): Readonly<Record<Outcome, number>> {
    return this.#counts;
  }

  /** The writes of one transaction, in the order in which they were made; one may be named more than once. */
  record(writes: readonly Write[], outcome: Outcome): void {
    const last = new Map<string, bigint>();
    for (const write of writes) {
      const at = place(write.table, write.key);
      last.set(at, write.version > (last.get(at) ?? 0n) ? write.version : (last.get(at) ?? 0n));
    }
    for (const write of writes) {
      const at = place(write.table, write.key);
      const versions = this.#byPlace.get(at) ?? new Map<bigint, Recorded>();
      this.#byPlace.set(at, versions);
      const known = versions.get(write.version);
      // What was rolled back, or lost in a crash before it was answered, may leave its version to another write.
      if (known !== undefined && rank[known.outcome] > rank[outcome]) continue;
      versions.set(write.version, { write, outcome, last: last.get(at) === write.version });
    }
    this.#counts[outcome] += last.size;
  }

  /** Every key's writes in the order of their versions, and which of them are in the log: to find out what went wrong. */
  story(final: ReadonlyMap<string, KeyState>, log: readonly LogEntry[]): string {
    const keys = [...this.#byPlace].map(([at, versions]) => {
      const held = final.get(at);
      const stays = ancestry(versions, held?.version ?? 0n).versions;
      const losers = new Set(
        log.filter((entry) => place(entry.table, entry.key) === at).map(({ loser }) => loser),
      );
      const lines = [...versions.values()]
        .sort((a, b) => (a.write.version < b.write.version ? -1 : 1))
        .map(({ write, outcome }) => {
          const marks = [
            stays.has(write.version) ? "stays" : "",
            losers.has(write.version) ? "logged" : "",
            outcome,
          ];
          return `  ${write.region} ${marks.filter((mark) => mark !== "").join(" ")} ${text(write)}`;
        });
      return [`${at} holds ${held ? text(held) : "nothing"}`, ...lines].join("\n");
    });
    return `${keys.join("\n")}\n`;
  }

  /**
   * What is wrong with the end of the schedule, a line each; none: every write is accounted for.
   * @param final what the regions hold of each key, all alike
   * @param log the conflict log, in all regions alike
   */
  problems(final: ReadonlyMap<string, KeyState>, log: readonly LogEntry[]): string[] {
    const logged = Map.groupBy(log, (entry) => place(entry.table, entry.key));
    const problems: string[] = [];
    for (const at of final.keys()) {
      if (!this.#byPlace.has(at)) problems.push(`${at} is there and nobody wrote it`);
    }
    for (const [at, versions] of this.#byPlace) {
      problems.push(...problemsOfKey({ at, versions, held: final.get(at), log: logged.get(at) ?? [] }));
    }
    return problems;
  }

  /**
   * Entries of the log whose loser is an ancestor of what stays: nothing was lost, and the report should have been taken
   * back. The pure rules never leave one (test/conflict); between sessions there may be a race that does, so these are
   * counted apart from what is lost.
   */
  falseAlarms(final: ReadonlyMap<string, KeyState>, log: readonly LogEntry[]): string[] {
    return log.flatMap(({ table, key, loser }) => {
      const at = place(table, key);
      const stays = final.get(at)?.version;
      const versions = this.#byPlace.get(at);
      return stays !== undefined && versions !== undefined && ancestry(versions, stays).versions.has(loser)
        ? [`${at}: the log has ${loser}, an ancestor of ${stays}, which stays`]
        : [];
    });
  }
}

interface KeyStory {
  readonly at: string;
  readonly versions: ReadonlyMap<bigint, Recorded>;
  readonly held: KeyState | undefined;
  readonly log: readonly LogEntry[];
}

const problemsOfKey = ({ at, versions, held, log }: KeyStory): string[] => {
  const problems: string[] = [];
  const written = [...versions.values()].filter(({ outcome }) => outcome !== "aborted");
  if (held === undefined) {
    const lost = written.filter(({ outcome }) => outcome === "acknowledged").map(({ write }) => text(write));
    return lost.length === 0
      ? []
      : [`${at} is gone with all that was written: ${lost.slice(0, 3).join("; ")}`];
  }
  const origin = versions.get(held.version);
  if (origin === undefined || origin.outcome === "aborted") {
    problems.push(`${at} holds ${text(held)}, which ${origin ? "was rolled back" : "nobody wrote"}`);
  } else if (contentText(origin.write) !== contentText(held)) {
    problems.push(
      `${at} holds ${text(held)}, but version ${held.version} was written as ${text(origin.write)}`,
    );
  }
  const standing = ancestry(versions, held.version);
  problems.push(
    ...standing.broken.map((version) => `${at}: nobody wrote ${version}, upon which others were written`),
  );
  const covered = new Set(standing.versions);
  for (const entry of log) {
    const loser = versions.get(entry.loser);
    if (loser === undefined || loser.outcome === "aborted") {
      problems.push(
        `${at}: the log has a loser ${entry.loser} that ${loser ? "was rolled back" : "nobody wrote"}`,
      );
      continue;
    }
    if (contentText({ ...loser.write, content: entry.content }) !== contentText(loser.write))
      problems.push(
        `${at}: the log does not have the loser ${entry.loser} whole: ${JSON.stringify(entry.content)}`,
      );
    for (const version of ancestry(versions, entry.loser).versions) covered.add(version);
  }
  for (const { write, outcome, last } of written) {
    if (outcome === "acknowledged" && last && !covered.has(write.version))
      problems.push(
        `${at}: lost: ${text(write)} of ${write.region}. ${text(held)} stays, did not come from it, and the log has neither it nor what came from it`,
      );
  }
  return problems;
};

/** A version and all that it was written upon, as far back as is known; `broken`: what is not known. */
const ancestry = (
  versions: ReadonlyMap<bigint, Recorded>,
  from: bigint,
): { readonly versions: ReadonlySet<bigint>; readonly broken: readonly bigint[] } => {
  const chain = new Set<bigint>();
  for (let at = from; at !== 0n && !chain.has(at);) {
    chain.add(at);
    const recorded = versions.get(at);
    if (recorded === undefined) return { versions: chain, broken: [at] };
    at = recorded.write.prev;
  }
  return { versions: chain, broken: [] };
};

const contentText = ({ kind, content }: Pick<KeyState, "kind" | "content">): string =>
  content === null ? kind : JSON.stringify(Object.entries(content).sort(([a], [b]) => (a < b ? -1 : 1)));

const shorten = (value: string | null): string =>
  value === null ? "null" : value.length > 24 ? `${value.slice(0, 24)}... (${value.length})` : value;

/** For messages. */
export const text = (state: KeyState): string => {
  const content = state.content
    ? Object.entries(state.content)
        .map(([name, value]) => `${name}=${shorten(value)}`)
        .join(" ")
    : "deleted";
  const seen = state.seen.length > 0 ? ` seen ${state.seen.join(",")}` : "";
  return `${state.version} (base ${state.base}, upon ${state.prev}${seen}: ${content})`;
};
