import { merge, retracts, type Merged } from "../../conflict/conflict-log.ts";
import { hasAuthority } from "../../conflict/ownership.ts";
import { compareStates, join, write, type State } from "../../conflict/state.ts";
import { regionOf, type Version } from "../../conflict/version.ts";

/** Regions in memory: each with a clock of its own, what it holds, and a WAL that its peers read. Test only. */

/** The rules under test. Others than `ours` exist to see that the properties can fail. */
export interface Rules {
  readonly merge: (held: State | null, incoming: State, region: number) => Merged;
  readonly retracts: typeof retracts;
  /** Reports are kept per reporting region; false: one per loser, whoever reports it. */
  readonly reportsPerRegion: boolean;
  /** Retraction is judged only when a conflict is reported, not at every merge that replaces. */
  readonly retractsOnConflictOnly: boolean;
  /** False: a write is stamped above what it replaces only. */
  readonly keepsFloor: boolean;
}

export const ours: Rules = {
  merge,
  retracts,
  reportsPerRegion: true,
  retractsOnConflictOnly: false,
  keepsFloor: true,
};

interface Change {
  readonly key: string;
  readonly state: State;
}

/** One local write of a key of the user, with what was known where it was made. */
export interface Written {
  readonly key: string;
  readonly state: State;
  /** The state it was written upon. */
  readonly parent: Version;
  /** Position in its region's WAL, and of what its region had merged of every other's at that time. */
  readonly position: number;
  readonly knew: ReadonlyMap<number, number>;
}

export interface LocalWrite {
  readonly key: string;
  readonly kind: "put" | "delete";
  readonly owned: boolean;
  /** Owner to be set, by index of region; null: nobody; undefined: leave it (on insert: this region). */
  readonly owner?: number | null | undefined;
  readonly takeover: boolean;
  readonly failover: "takeover" | "provisional";
}

const REPORT = "report\t";
const isReport = (key: string): boolean => key.startsWith(REPORT);
/** Keys of the log, as the conflict table has them: key, loser's version, reporting region (0: kept per loser). */
const reportKey = (key: string, loser: Version, detectedIn: number): string =>
  `${REPORT}${key}\t${loser}\t${detectedIn}`;
const partsOfReport = (reportKey: string): { key: string; loser: Version; detectedIn: number } => {
  const [, key = "", loser = "", detectedIn = ""] = reportKey.split("\t");
  return { key, loser: BigInt(loser), detectedIn: Number(detectedIn) };
};

export class Region {
  /** States of the user's keys and of the conflict log, which is a replicated table like any other. */
  readonly held = new Map<string, State>();
  readonly wal: Change[] = [];
  /** Next position to be read of each peer's WAL, and the furthest ever merged. */
  readonly cursor = new Map<number, number>();
  readonly merged = new Map<number, number>();
  readonly id: number;
  offsetMicros: bigint;
  floor: Version = 0n;

  constructor(id: number, offsetMicros: bigint) {
    this.id = id;
    this.offsetMicros = offsetMicros;
  }
}

export class Cluster {
  readonly regions: Region[];
  readonly writes: Written[] = [];
  nowMicros = 1_700_000_000_000_000n;
  readonly #rules: Rules;
  #content = 0;

  constructor(offsetsMicros: readonly bigint[], rules: Rules) {
    this.regions = offsetsMicros.map((offset, i) => new Region(i + 1, offset));
    this.#rules = rules;
  }

  write(at: Region, by: LocalWrite): void {
    const held = at.held.get(by.key) ?? null;
    const row = held?.kind === "row" ? held : null;
    if (by.kind === "delete" && row === null) return;
    const before = row === null ? undefined : ownerOf(row.content);
    const chosen = by.owner === undefined ? (before === undefined ? at.id : before) : by.owner;
    const after = by.kind === "delete" ? undefined : chosen;
    const state = this.#stamp(at, by.key, {
      content: after === undefined ? null : `${after ?? ""}|${++this.#content}`,
      authority:
        by.owned &&
        hasAuthority({
          region: String(at.id),
          before: before === undefined ? undefined : nameOf(before),
          after: after === undefined ? undefined : nameOf(after),
          takeover: by.takeover,
          failover: by.failover,
        }),
    });
    const position = at.wal.length - 1;
    this.writes.push({
      key: by.key,
      state,
      parent: held?.version ?? 0n,
      position,
      knew: new Map(at.merged).set(at.id, position),
    });
  }

  /** Merges up to `count` changes of the peer's WAL as one batch, collapsed to the highest state per key or not. */
  stream(from: Region, to: Region, options: { readonly count: number; readonly collapse: boolean }): void {
    const start = to.cursor.get(from.id) ?? 0;
    const batch = from.wal.slice(start, start + options.count);
    this.#mergeAll(to, options.collapse ? collapse(batch) : batch);
    this.#advance(from, to, start + batch.length);
  }

  /** The link is set back: what was merged will come again. */
  setBack(from: Region, to: Region, count: number): void {
    to.cursor.set(from.id, Math.max(0, (to.cursor.get(from.id) ?? 0) - count));
  }

  /** The slot was lost: the changes up to now never come, the peer's states are merged instead. */
  resync(from: Region, to: Region, kind: "own" | "full"): void {
    const states = [...from.held]
      .map(([key, state]) => ({ key, state }))
      .filter(({ state }) => kind === "full" || regionOf(state.version) === from.id);
    this.#mergeAll(to, states);
    this.#advance(from, to, from.wal.length);
  }

  /** Everything streams everywhere, the reports and retractions which that makes too. */
  settle(): void {
    for (let busy = true; busy;) {
      busy = false;
      for (const to of this.regions)
        for (const from of this.regions) {
          if (from === to || (to.cursor.get(from.id) ?? 0) === from.wal.length) continue;
          busy = true;
          this.stream(from, to, { count: Infinity, collapse: true });
        }
    }
  }

  /** Versions of the losers in a region's log. */
  reported(at: Region, key: string): Set<Version> {
    return new Set(this.#reports(at, key).map((reportKey) => partsOfReport(reportKey).loser));
  }

  #stamp(at: Region, key: string, by: { content: string | null; authority: boolean }): State {
    const held = at.held.get(key) ?? null;
    const clockMicros = this.nowMicros + at.offsetMicros;
    const state = write(held, { ...by, region: at.id, clockMicros, above: at.floor });
    if (held !== null && compareStates(state, held) <= 0)
      throw new Error("a write did not outrank what it replaced");
    at.held.set(key, state);
    at.wal.push({ key, state });
    return state;
  }

  #advance(from: Region, to: Region, position: number): void {
    to.cursor.set(from.id, position);
    to.merged.set(from.id, Math.max(position, to.merged.get(from.id) ?? 0));
  }

  #mergeAll(at: Region, changes: readonly Change[]): void {
    for (const { key, state } of changes) {
      if (isReport(key)) {
        const held = at.held.get(key);
        at.held.set(key, held === undefined ? state : join(held, state));
      } else this.#merge(at, key, state);
    }
  }

  #merge(at: Region, key: string, incoming: State): void {
    const before = at.held.get(key) ?? null;
    const { held, replaces, report, floor } = this.#rules.merge(before, incoming, at.id);
    if (this.#rules.keepsFloor && floor > at.floor) at.floor = floor;
    if (before !== null && compareStates(held, before) < 0) throw new Error("a merge went down");
    at.held.set(key, held);
    if (report !== null) {
      const { loser, winner, type } = report;
      const entry = reportKey(key, loser.version, this.#rules.reportsPerRegion ? at.id : 0);
      if (!at.held.has(entry))
        this.#stamp(at, entry, { content: `${type} ${loser.version} ${winner.version}`, authority: false });
    }
    if (this.#rules.retractsOnConflictOnly ? report !== null : replaces) this.#retract(at, key, held);
  }

  #retract(at: Region, key: string, winner: State): void {
    for (const entry of this.#reports(at, key)) {
      const { loser, detectedIn } = partsOfReport(entry);
      const mine = detectedIn === at.id || detectedIn === 0;
      if (mine && this.#rules.retracts(loser, winner, at.id))
        this.#stamp(at, entry, { content: null, authority: false });
    }
  }

  #reports(at: Region, key: string): string[] {
    const prefix = `${REPORT}${key}\t`;
    return [...at.held].filter(([k, s]) => s.kind === "row" && k.startsWith(prefix)).map(([k]) => k);
  }
}

const nameOf = (owner: number | null): string | null => (owner === null ? null : String(owner));
const ownerOf = (content: string): number | null => {
  const owner = content.split("|")[0] ?? "";
  return owner === "" ? null : Number(owner);
};

const collapse = (batch: readonly Change[]): Change[] => {
  const last = new Map<string, State>();
  for (const { key, state } of batch) {
    const other = last.get(key);
    last.set(key, other === undefined ? state : join(other, state));
  }
  return [...last].map(([key, state]) => ({ key, state }));
};
