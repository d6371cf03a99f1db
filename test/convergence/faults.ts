import type { TestCluster } from "../../src/testing/index.ts";
import { pause } from "./session.ts";
import type { Fault } from "./schedule.ts";

export interface Stage {
  readonly cluster: TestCluster;
  /** Told while the region's server is down. */
  readonly crashed: (region: string) => void;
  /** A copy of the source's states into the target is to be expected from now on. */
  readonly expectCopy: (source: string, target: string) => void;
  /** Brings the region in: makes it, and begins to watch and to write there. */
  readonly join: (region: string) => Promise<void>;
  readonly note: (line: string) => void;
  readonly problem: (line: string) => void;
}

/** An agent that has just been started makes the slots that it misses. */
const slotWithinMs = 20_000;

/** Does what the faults of a schedule say. What befalls one region's processes, befalls them one after another. */
export class Faults {
  readonly #stage: Stage;
  readonly #busy = new Map<string, Promise<void>>();
  readonly #running: Promise<void>[] = [];

  constructor(stage: Stage) {
    this.#stage = stage;
  }

  /** Resolves when all have begun and ended. */
  async play(faults: readonly Fault[]): Promise<void> {
    const start = performance.now();
    for (const fault of faults) {
      await pause(Math.max(0, start + fault.at - performance.now()));
      this.#running.push(
        this.#do(fault).catch((error: unknown) =>
          this.#stage.problem(
            `${fault.kind} could not be done: ${error instanceof Error ? error.message : String(error)}`,
          ),
        ),
      );
    }
    await Promise.all(this.#running);
  }

  async #do(fault: Fault): Promise<void> {
    const { cluster, note } = this.#stage;
    switch (fault.kind) {
      case "cut":
        cluster.cut(fault.a, fault.b, { oneWay: fault.oneWay, mode: fault.mode });
        await pause(fault.ms);
        return cluster.heal(fault.a, fault.b);
      case "isolate":
        cluster.isolate(fault.region, { mode: fault.mode });
        await pause(fault.ms);
        return cluster.heal(fault.region);
      case "slow":
        cluster.slow(fault.a, fault.b, { latencyMs: fault.latencyMs, loss: fault.loss });
        await pause(fault.ms);
        return cluster.slow(fault.a, fault.b, { latencyMs: 0, loss: 0 });
      case "kill agent":
        return this.#alone([fault.region], async () => {
          await cluster.kill(fault.region, { what: "agent" });
          if (fault.offsetMs !== null) await cluster.skewClock(fault.region, fault.offsetMs);
          await pause(fault.ms);
          await cluster.restart(fault.region);
        });
      case "kill server":
        return this.#alone([fault.region], () => this.#kill(fault.region, "server", fault.ms));
      case "kill both":
        return this.#alone([fault.region], () => this.#kill(fault.region, "both", fault.ms));
      case "power off": {
        const names = cluster.regions.map(({ name }) => name);
        return this.#alone(names, async () => {
          await Promise.all(names.map((name) => this.#kill(name, "both", fault.ms)));
        });
      }
      case "stop agent":
        return this.#alone([fault.region], async () => {
          cluster.pauseAgent(fault.region);
          await pause(fault.ms);
          cluster.resumeAgent(fault.region);
        });
      case "skew":
        return this.#alone([fault.region], () => cluster.skewClock(fault.region, fault.offsetMs));
      case "drop slot":
        return this.#alone([fault.source, fault.target], () => this.#dropSlot(fault));
      case "join":
        await this.#stage.join(fault.region);
        note(`${fault.region} has begun to join`);
        if (fault.hitAgent) return this.#alone([fault.region], () => this.#kill(fault.region, "agent", 0));
        return;
      default:
        fault satisfies never;
    }
  }

  async #kill(name: string, what: "agent" | "server" | "both", ms: number): Promise<void> {
    const { cluster, crashed } = this.#stage;
    await cluster.kill(name, { what });
    if (what !== "agent") crashed(name);
    await pause(ms);
    await cluster.restart(name);
  }

  async #dropSlot(fault: Fault & { kind: "drop slot" }): Promise<void> {
    const { cluster, expectCopy, note } = this.#stage;
    const source = cluster.region(fault.source);
    const target = cluster.region(fault.target);
    expectCopy(source.name, target.name);
    const slot = `coregent_test_${source.id}_${target.id}`;
    const deadline = performance.now() + slotWithinMs;
    for (;;) {
      try {
        // Not who is still making it: again and again, it would never be made.
        await source.sql(
          `SELECT pg_terminate_backend(active_pid, 1000) FROM pg_replication_slots
            WHERE slot_name = '${slot}' AND active AND confirmed_flush_lsn IS NOT NULL`,
        );
        await source.sql(`SELECT pg_drop_replication_slot('${slot}')`);
        break;
      } catch (error) {
        // The agent was faster than we, or has not yet made it anew since the last time: it may still be starting.
        if (performance.now() > deadline) throw error;
        await pause(25);
      }
    }
    note(`slot ${slot} dropped`);
    if (!fault.hitAgent) return;
    await pause(400);
    await this.#kill(target.name, "agent", 0);
  }

  /** Nothing else is done to these regions' processes meanwhile. */
  async #alone(names: readonly string[], work: () => Promise<void>): Promise<void> {
    const before = Promise.all(names.map((name) => this.#busy.get(name) ?? Promise.resolve()));
    const mine = before.then(work);
    const settled = mine.catch(() => undefined);
    for (const name of names) this.#busy.set(name, settled);
    return mine;
  }
}
