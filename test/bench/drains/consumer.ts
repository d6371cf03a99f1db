import type { AgentProcess } from "../../../src/testing/agent-process.ts";
import type { BenchServer } from "../bench-server.ts";
import type { Side } from "../case.ts";
import type { Servers } from "../servers.ts";
import type { SizedWorkload, Workload } from "./workload.ts";

/** Where the backlog is written and what keeps it. To be disposed of: slots that nobody reads keep WAL. */
export interface Prepared extends AsyncDisposable {
  readonly source: BenchServer;
  readonly target: BenchServer;
  /** Of the source's database. */
  readonly database: string;
  /** Slot that nobody reads from: it stands before the backlog, and each run reads from a copy of it. */
  readonly keptSlot: string;
  /** Runs while the backlog is written, as in production, and not while it is drained; null: there is none. */
  readonly sourceAgent: AgentProcess | null;
  readonly consumers: readonly Consumer[];
}

/** Something that reads a backlog into its target database. */
export interface Consumer {
  readonly side: Side;
  readonly slot: string;
  readonly targetDatabase: string;
  /** Brings the target to what it holds when nothing of the backlog has come, and does all that needs no time to count. */
  reset(): Promise<void>;
  start(): Promise<void>;
  /** It reads no more; a process may be kept for the next run. */
  stop(): Promise<void>;
  /** Of a process outside the servers; null: there is none. */
  pid(): number | null;
  /** What to show when it does not get done. */
  explain(): Promise<string>;
}

/** Source and target hold the seed, and the slot stands behind it. The backlog is not written yet. */
export type Prepare = (
  servers: Servers,
  workload: Pick<Workload, "schema">,
  sized: Pick<SizedWorkload, "seed">,
) => Promise<Prepared>;
