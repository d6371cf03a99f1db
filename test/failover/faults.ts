import { createHash } from "node:crypto";
import { registerDrain, registerResume } from "../../src/cli/drain.ts";
import { registerOutage } from "../../src/cli/outage.ts";
import type { TestCluster } from "../../src/testing/index.ts";
import { run } from "../cli/harness.ts";
import { pause } from "../convergence/session.ts";
import type { Episode, Fault } from "./schedule.ts";
import type { Away, Death } from "./waits.ts";

export const adminToken = "only-for-these-runs";
export const adminTokenSha256 = createHash("sha256").update(adminToken).digest("hex");

export interface Stage {
  readonly cluster: TestCluster;
  readonly note: (line: string) => void;
  readonly problem: (line: string) => void;
}

const now = (): number => performance.now();

/** After the last fault is over: masters count as well again after `calmMs` of good probes. */
const wellWithinMs = 30_000;

const peersBehindSql = `SELECT FROM pg_replication_slots
  WHERE slot_name LIKE 'coregent%' AND NOT temporary AND NOT (active AND confirmed_flush_lsn >= $1)`;

/** Does what the episodes say, and keeps who was gone and when. */
export class Faults {
  readonly deaths: Death[] = [];
  /** While a region was drained, and until it was back. */
  readonly drains: { readonly fromMs: number; readonly toMs: number }[] = [];
  readonly #away: { endpoint: string; fromMs: number; toMs: number | null }[] = [];
  readonly #stage: Stage;
  readonly #busy = new Map<string, Promise<void>>();

  constructor(stage: Stage) {
    this.#stage = stage;
  }

  get away(): readonly Away[] {
    return this.#away;
  }

  /** Resolves when all its faults are over, and each endpoint sees all masters well. */
  async play({ faults }: Episode): Promise<void> {
    const drain = faults.every(({ kind }) => kind === "drain");
    // What is drained is well: what the fault before has left to be caught up with says nothing of maintenance.
    if (drain) await this.#caughtUp();
    const fromMs = now();
    await Promise.all(
      faults.map(async (fault) => {
        await pause(fault.afterMs);
        await this.#alone(fault.region, () => this.#do(fault));
      }),
    );
    await this.allWell();
    if (drain) this.drains.push({ fromMs, toMs: now() });
  }

  /** Until each region's peers have confirmed what it has written by now. */
  async #caughtUp(): Promise<void> {
    await Promise.all(
      this.#stage.cluster.regions.map(async (region) => {
        const [written] = await region.sql<{ lsn: string }>(
          "SELECT pg_current_wal_insert_lsn()::text AS lsn",
        );
        await this.#soon(
          `${region.name} has peers that have not caught up`,
          async () => (await region.sql(peersBehindSql, [written?.lsn])).length === 0,
        );
      }),
    );
  }

  /** Each endpoint sees all masters well. */
  async allWell(): Promise<void> {
    await Promise.all(
      this.#stage.cluster.regions.map(async ({ name, api }) => {
        if (await this.#soon(`${name} does not see all masters well`, () => seesAllWell(api)))
          this.#back(name);
      }),
    );
  }

  /** Whether it becomes so while there is time; it is a problem if not. */
  async #soon(otherwise: string, isSo: () => Promise<boolean>): Promise<boolean> {
    const untilMs = now() + wellWithinMs;
    while (!(await isSo())) {
      if (now() > untilMs) {
        this.#stage.problem(`${otherwise} ${wellWithinMs} ms later`);
        return false;
      }
      await pause(50);
    }
    return true;
  }

  async #do({ kind, region, forMs }: Fault): Promise<void> {
    const { cluster } = this.#stage;
    switch (kind) {
      case "kill server":
        await this.#dying(region, kind, () => cluster.kill(region, { what: "server" }));
        await pause(forMs);
        return cluster.restart(region);
      case "kill agent":
        this.#leaving(region);
        await cluster.kill(region, { what: "agent" });
        await pause(forMs);
        return cluster.restart(region);
      case "kill both":
        this.#leaving(region);
        await this.#dying(region, kind, () => cluster.kill(region));
        await pause(forMs);
        return cluster.restart(region);
      case "outage":
        this.#leaving(region);
        await this.#dying(region, kind, () =>
          this.#command(["outage", "start", "region", region, "--for", `${forMs}ms`]),
        );
        return pause(forMs);
      case "isolate":
      case "disconnect":
        return this.#cut(region, kind, forMs);
      case "drain":
        // It fails if something is outstanding after a minute.
        await this.#command(["drain", region]);
        await pause(forMs);
        return this.#command(["resume", region]);
      default:
        kind satisfies never;
    }
  }

  /** Its own endpoint sees the others die. */
  async #cut(region: string, kind: "isolate" | "disconnect", forMs: number): Promise<void> {
    const { cluster } = this.#stage;
    const mode = kind === "isolate" ? "blackhole" : "reset";
    await this.#dying(region, kind, () => cluster.isolate(region, { mode }));
    await pause(forMs);
    cluster.heal(region);
  }

  async #dying(region: string, how: string, kill: () => void | Promise<void>): Promise<void> {
    const atMs = now();
    await kill();
    this.deaths.push({ region, how, atMs, deadMs: now() });
  }

  #leaving(endpoint: string): void {
    this.#away.push({ endpoint, fromMs: now(), toMs: null });
  }

  #back(endpoint: string): void {
    for (const away of this.#away) if (away.endpoint === endpoint) away.toMs ??= now();
  }

  async #command(argv: readonly string[]): Promise<void> {
    const { cluster, note, problem } = this.#stage;
    const ran = await run([...argv, "--config", cluster.configFile], {
      commands: [registerOutage, registerDrain, registerResume],
      env: { COREGENT_TOKEN: adminToken },
    });
    note(`coregent ${argv.join(" ")} ended with ${ran.code}`);
    if (ran.code !== 0)
      problem(`coregent ${argv.join(" ")} ended with ${ran.code}: ${ran.stdout} ${ran.stderr}`);
  }

  /** Nothing else is done to the region meanwhile. */
  #alone(region: string, work: () => Promise<void>): Promise<void> {
    const mine = (this.#busy.get(region) ?? Promise.resolve()).then(work);
    this.#busy.set(
      region,
      mine.catch(() => undefined),
    );
    return mine;
  }
}

const seesAllWell = async (api: string): Promise<boolean> => {
  try {
    const response = await fetch(`${api}/v1/nearest?lat=0&lon=0`, { signal: AbortSignal.timeout(2_000) });
    const { regions } = (await response.json()) as { readonly regions?: readonly { healthy: boolean }[] };
    return regions?.every(({ healthy }) => healthy) === true;
  } catch {
    return false;
  }
};
