import type { Client } from "pg";
import { systemClock, type Clock } from "../clock.ts";
import type { Topology } from "../../regions/topology.ts";
import { recordAudit } from "../postgres/audit.ts";
import { readTables } from "../postgres/catalog.ts";
import { connect } from "../postgres/client.ts";
import type { ReplicatedTable } from "../postgres/table.ts";
import { MergeSession } from "./merge-session.ts";
import { mergeKeys, misfitOf, restamp } from "./repair-merge.ts";
import { regionsOf, verifyCluster, type VerifyRegion } from "./verify.ts";
import { isHigher } from "./verify-region.ts";
import type { Difference, HeldState, TableReport, VerifyReport } from "./verify-report.ts";
import { maxKeys } from "./verify-table.ts";

export interface RepairOptions {
  readonly tables?: readonly string[];
  /** Of rows of one version and different content, that of this region is to stay; null: they are left as they are. */
  readonly from?: string;
  /** As of verify: how long differences in flight are waited for; default 10 s. */
  readonly waitMs?: number;
  readonly limit?: number;
  readonly connectTimeoutMs?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (text: string) => void;
  readonly clock?: Clock;
}

export interface RepairReport {
  /** What was merged, by table and region that received it. */
  readonly merged: readonly {
    readonly table: string;
    readonly region: string;
    /** Rows that came or went. */
    readonly rows: number;
    readonly tombstones: number;
  }[];
  /** Rows stamped anew at `from`. */
  readonly restamped: number;
  /** What could not be repaired, and why. */
  readonly skipped: readonly string[];
  /** How the regions compare now. */
  readonly after: VerifyReport;
}

/**
 * Merges, for every key that differs, the highest state into the regions that lack it, through the one merge path; then
 * verifies. May be run while agents run and applications write, and again: a state that is held already changes nothing.
 */
export const repairCluster = async (
  target: Topology | readonly VerifyRegion[],
  options: RepairOptions = {},
): Promise<RepairReport> => {
  const regions = "regions" in target ? regionsOf(target) : target;
  await using repair = new Repair(regions, options);
  const deep = options.from !== undefined;
  for (let round = 1, waitMs = options.waitMs; ; round++, waitMs = 0) {
    const found = await verifyCluster(regions, {
      ...options,
      deep,
      limit: maxKeys,
      ...(waitMs === undefined ? {} : { waitMs }),
    });
    const progress = await repair.round(found);
    // Merging logs conflicts, which may now differ themselves; and not all keys may have been looked at. There is always
    // something in flight in a busy cluster, so it does not go on until nothing is found.
    const more = round < minRounds || found.tables.some((table) => table.more);
    if (!progress || !more) break;
  }
  await repair.record();
  const after = await verifyCluster(regions, { ...options, deep });
  return { ...repair.done(), after };
};

const minRounds = 3;

interface RepairedRegion {
  readonly session: MergeSession;
  /** An ordinary session: reads states, and stamps anew. */
  readonly client: Client;
  readonly tables: ReadonlyMap<string, ReplicatedTable>;
}

class Repair implements AsyncDisposable {
  readonly #regions: ReadonlyMap<string, VerifyRegion>;
  readonly #options: RepairOptions;
  readonly #clock: Clock;
  readonly #open = new Map<string, RepairedRegion>();
  readonly #merged = new Map<string, { table: string; region: string; rows: number; tombstones: number }>();
  readonly #skipped = new Set<string>();
  #restamped = 0;

  constructor(regions: readonly VerifyRegion[], options: RepairOptions) {
    this.#regions = new Map(regions.map((region) => [region.name, region]));
    this.#options = options;
    this.#clock = options.clock ?? systemClock();
  }

  done(): Pick<RepairReport, "merged" | "restamped" | "skipped"> {
    return { merged: [...this.#merged.values()], restamped: this.#restamped, skipped: [...this.#skipped] };
  }

  /** Repairs what was found. False: nothing changed by it. */
  async round(found: VerifyReport): Promise<boolean> {
    const before = this.#changes();
    for (const table of found.tables) {
      await this.#restamp(table);
      for (const [, { source, target, keys }] of transfers(table)) {
        this.#options.onProgress?.(`${table.name}: ${keys.length} keys from ${source} to ${target}`);
        await this.#transfer(table.name, { source, target, keys });
      }
    }
    return this.#changes() > before;
  }

  /** Puts on record what was changed, in each region concerned. */
  async record(): Promise<void> {
    for (const [name, { client }] of this.#open) {
      const changes = [...this.#merged.values()]
        .filter(({ region, rows, tombstones }) => region === name && rows + tombstones > 0)
        .map(({ table, rows, tombstones }) => `${table}: merged ${rows} rows and ${tombstones} tombstones`);
      if (name === this.#options.from && this.#restamped > 0) {
        changes.push(`stamped ${this.#restamped} rows anew`);
      }
      if (changes.length > 0) await recordAudit(client, { action: "repair", detail: changes.join("; ") });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(
      [...this.#open.values()].map(async ({ session, client }) => {
        await session[Symbol.asyncDispose]();
        await client.end().catch(() => undefined);
      }),
    );
  }

  #changes(): number {
    return [...this.#merged.values()].reduce((sum, one) => sum + one.rows + one.tombstones, this.#restamped);
  }

  async #restamp(table: TableReport): Promise<void> {
    const keys = table.differences.filter((one) => one.kind === "content").map((one) => one.key);
    if (keys.length === 0) return;
    const { from } = this.#options;
    if (from === undefined) {
      this.#skipped.add(
        `${table.name}: rows of one version differ in content; say whose is right with --from`,
      );
      return;
    }
    const region = await this.#region(from);
    const own = region.tables.get(table.name);
    if (own === undefined) {
      this.#skipped.add(`${table.name} is not replicated in ${from}`);
      return;
    }
    this.#options.onProgress?.(`${table.name}: ${keys.length} rows stamped anew in ${from}`);
    const restamped = await restamp(region.client, own, keys);
    this.#restamped += restamped;
    // Sent on at once, and not left to the agents: none may be running.
    for (const name of Object.keys(table.regions).filter((other) => other !== from)) {
      await this.#transfer(table.name, { source: from, target: name, keys });
    }
  }

  async #transfer(name: string, { source, target, keys }: Transfer): Promise<void> {
    const [from, to] = [await this.#region(source), await this.#region(target)];
    const theirs = from.tables.get(name);
    const ours = to.tables.get(name);
    if (theirs === undefined || ours === undefined) return;
    const misfit = misfitOf(theirs, ours);
    if (misfit !== null) {
      this.#skipped.add(`${name} of ${source} does not fit in ${target}: ${misfit}`);
      return;
    }
    const merged = await mergeKeys(
      to.session,
      { target: ours, source: { client: from.client, table: theirs }, keys },
      { clock: this.#clock, signal: this.#options.signal },
    );
    const id = JSON.stringify([name, target]);
    const sum = this.#merged.get(id) ?? { table: name, region: target, rows: 0, tombstones: 0 };
    this.#merged.set(id, {
      ...sum,
      rows: sum.rows + merged.rows,
      tombstones: sum.tombstones + merged.tombstones,
    });
  }

  async #region(name: string): Promise<RepairedRegion> {
    const known = this.#open.get(name);
    if (known !== undefined) return known;
    const region = this.#regions.get(name);
    if (region === undefined) throw new Error(`no region ${name}`);
    const { connectTimeoutMs } = this.#options;
    const shared = {
      applicationName: `coregent repair ${name}`,
      ...(connectTimeoutMs === undefined ? {} : { connectTimeoutMs }),
    };
    const client = await connect(region.url, shared);
    try {
      const tables = new Map((await readTables(client)).map((table) => [table.name, table]));
      const opened = {
        session: await MergeSession.open(region.url, { ...shared, origin: null }),
        client,
        tables,
      };
      this.#open.set(name, opened);
      return opened;
    } catch (error) {
      await client.end().catch(() => undefined);
      throw error;
    }
  }
}

interface Transfer {
  readonly source: string;
  readonly target: string;
  readonly keys: string[];
}

/** Which keys go from where to where: from a region that holds the highest state to each that shows another. */
const transfers = (table: TableReport): Map<string, Transfer> => {
  const all = new Map<string, Transfer>();
  for (const difference of table.differences) {
    if (difference.kind === "content") continue;
    for (const [source, target] of pairs(difference)) {
      const id = JSON.stringify([source, target]);
      const transfer = all.get(id) ?? { source, target, keys: [] };
      transfer.keys.push(difference.key);
      all.set(id, transfer);
    }
  }
  return all;
};

const pairs = ({ states }: Difference): [source: string, target: string][] => {
  let highest: readonly [string, HeldState] | null = null;
  for (const [region, state] of Object.entries(states)) {
    // What is quarantined cannot be read as a row; it is tried again by its region's agent.
    if (state.kind === "quarantined" || state.kind === "absent") continue;
    if (highest === null || isHigher(state, highest[1])) highest = [region, state];
  }
  if (highest === null) return [];
  const [source, join] = highest;
  return Object.entries(states)
    .filter(([, state]) => state.kind === "unswept" || isHigher(join, state))
    .map(([region]) => [source, region]);
};
