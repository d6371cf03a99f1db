import type { Client } from "pg";
import type { Region, Topology } from "../../regions/topology.ts";
import { regionNamed } from "../config.ts";
import { exitCodes, OperatorError } from "../errors.ts";
import { createLogger } from "../logger.ts";
import { recordAudit } from "../postgres/audit.ts";
import { connect } from "../postgres/client.ts";
import { runAgent } from "../replication/agent.ts";
import { agentContext } from "./agent-context.ts";
import { type CliContext, commandGroups, type RegisterCommand } from "./context.ts";
import { findingsText, worstSeverity } from "./findings.ts";
import { CopyProgress, type PendingCopy } from "./join-progress.ts";

interface JoinFlags {
  region: string;
  from?: string;
  again: boolean;
}

/**
 * `coregent join`: prepares a region that is new in the configuration, gives it slots at its peers and copies their
 * states; or copies again what a region has missed. 0 when the region streams from every peer, 3 when some table or
 * peer is left out for now.
 */
export const registerJoin: RegisterCommand = (program, context) => {
  program
    .command("join")
    .helpGroup(commandGroups.setUp)
    .description("add a region to the running cluster, or copy again what a region has missed")
    .requiredOption("-r, --region <name>", "the region that joins; it is in the configuration already")
    .option(
      "--from <region>",
      "copy all states from this peer, also those of regions that are gone or cannot be reached",
    )
    .option(
      "--again",
      "copy the states of every peer once more, though nothing is known to be missing",
      false,
    )
    .addHelpText(
      "after",
      "\nWrites go on everywhere meanwhile. The copying is done by the region's agent; if none runs, by this command.\n" +
        "Interrupted, it is simply run again: what was copied is merged once more, without harm.",
    )
    .action(async (flags: JoinFlags) => {
      const topology = await context.loadTopology();
      const region = regionNamed(topology, flags.region);
      const from = flags.from === undefined ? null : regionNamed(topology, flags.from);
      await joinCommand(context, topology, { region, from, again: flags.again });
    });
};

interface JoinWork {
  readonly region: Region;
  readonly from: Region | null;
  readonly again: boolean;
}

const joinCommand = async (context: CliContext, topology: Topology, work: JoinWork): Promise<void> => {
  const { output } = context;
  const signal = context.interrupted();
  const { reachable, absent } = await probe(topology, work.region);
  if (absent.length > 0) {
    output.warn(`not reachable now: ${absent.join(", ")}; what only they hold is copied when they are back`);
  }
  const report = await context.services.initCluster(
    { ...topology, regions: reachable },
    { signal, onProgress: output.progress },
  );
  if (worstSeverity(report.findings) === "critical") {
    output.note(
      findingsText(
        report.findings.filter(({ severity }) => severity === "critical"),
        output.noteColor,
      ),
    );
    throw new OperatorError("CG-JOIN-REFUSED", "something is in the way; nothing was changed", {
      remedy: "Settle what is listed above, then run the command again.",
    });
  }
  const client = await connect(work.region.postgres.reveal(), {
    applicationName: `coregent join ${work.region.name}`,
  });
  try {
    await request(client, topology, work);
    const origins = reachable.filter(({ id }) => id !== work.region.id).map(({ id }) => id);
    const outcome = await whileAgentRuns(context, topology, work.region, (ended) =>
      follow(context, client, { origins, ended }),
    );
    output.result({ region: work.region.name, absent, ...outcome }, () =>
      outcomeText(work.region.name, outcome),
    );
    context.exitCode = absent.length > 0 || outcome.misfits.length > 0 ? exitCodes.degraded : exitCodes.ok;
  } finally {
    await client.end().catch(() => undefined);
  }
};

/** Regions that answer, in the topology's order. The one that joins must. */
const probe = async (
  topology: Topology,
  joining: Region,
): Promise<{ reachable: Region[]; absent: string[] }> => {
  const answers = await Promise.all(
    topology.regions.map(async (region) => {
      try {
        const client = await connect(region.postgres.reveal(), {
          applicationName: "coregent join",
          connectTimeoutMs: 5_000,
        });
        await client.end();
        return true;
      } catch (error) {
        if (region.id === joining.id) {
          throw error;
        }
        return false;
      }
    }),
  );
  return {
    reachable: topology.regions.filter((_, index) => answers[index] === true),
    absent: topology.regions.filter((_, index) => answers[index] !== true).map(({ name }) => name),
  };
};

/** Asks for copies beyond those that new slots bring with them. */
const request = async (
  client: Client,
  topology: Topology,
  { region, from, again }: JoinWork,
): Promise<void> => {
  const origins = topology.regions
    .filter(({ id }) => id !== region.id && (again || id === from?.id))
    .map(({ id }) => id);
  await client.query(
    `INSERT INTO coregent.table_sync (origin, table_name, kind, reason)
     SELECT o.origin, t.name, CASE WHEN o.origin = $2 THEN 'full' ELSE 'own' END, 'asked for by coregent join'
       FROM unnest($1::int[]) AS o(origin) CROSS JOIN coregent.replicated_table t
     ON CONFLICT (origin, table_name) DO UPDATE
       SET kind = excluded.kind, reason = excluded.reason, misfit = NULL, rows_done = 0, rows_total = NULL,
           started_at = NULL, updated_at = now()`,
    [origins, from?.id ?? 0],
  );
  const asked = [...(from === null ? [] : [` --from ${from.name}`]), ...(again ? [" --again"] : [])];
  await recordAudit(client, { action: "join", detail: `--region ${region.name}${asked.join("")}` });
};

/** Runs an agent of the region beside `work`. If another one is active, ours is a standby and does nothing. */
const whileAgentRuns = async <T>(
  context: CliContext,
  topology: Topology,
  region: Region,
  work: (ended: AbortSignal) => Promise<T>,
): Promise<T> => {
  const done = new AbortController();
  const logger = createLogger(
    { write: (line) => context.stderr.write(line) },
    { level: "error", color: false },
  );
  const agent = agentContext(context, region, { topology: () => topology, logger });
  const signal = AbortSignal.any([context.interrupted(), done.signal]);
  const failed = new AbortController();
  const running = runAgent(agent, signal).catch((error: unknown) => failed.abort(error));
  try {
    return await work(AbortSignal.any([context.interrupted(), failed.signal]));
  } finally {
    done.abort();
    await running;
  }
};

export interface JoinOutcome {
  readonly states: number;
  readonly seconds: number;
  /** Tables that do not fit, and why. */
  readonly misfits: readonly { readonly table: string; readonly reason: string }[];
}

const pollMs = 250;

const follow = async (
  context: CliContext,
  client: Client,
  { origins, ended }: { origins: readonly number[]; ended: AbortSignal },
): Promise<JoinOutcome> => {
  const { clock, output } = context;
  const progress = new CopyProgress(clock.monotonic());
  for (;;) {
    ended.throwIfAborted();
    const pending = await readPending(client);
    const streaming = await readStreaming(client, origins);
    progress.see(pending, clock.monotonic());
    const open = pending.filter(({ misfit }) => misfit === null);
    const waiting = origins.filter((origin) => !streaming.includes(origin));
    if (open.length === 0 && waiting.length === 0) {
      const misfits = pending.map(({ table, misfit }) => ({ table, reason: misfit ?? "" }));
      return { states: progress.done, seconds: progress.seconds, misfits };
    }
    output.progress(open.length === 0 ? `waiting for ${waiting.length} links to begin` : progress.text());
    await clock.sleep(pollMs, ended);
  }
};

const readPending = async (client: Client): Promise<PendingCopy[]> => {
  const { rows } = await client.query<{
    origin: number;
    table: string;
    done: string;
    total: string | null;
    misfit: string | null;
  }>(
    `SELECT origin, table_name AS table, rows_done::text AS done, rows_total::text AS total, misfit
       FROM coregent.table_sync ORDER BY origin, table_name`,
  );
  return rows.map((row) => ({
    origin: row.origin,
    table: row.table,
    done: Number(row.done),
    total: row.total === null ? null : Number(row.total),
    misfit: row.misfit,
  }));
};

/** Origins whose stream has a starting point here: their gap is closed, or listed in table_sync. */
const readStreaming = async (client: Client, origins: readonly number[]): Promise<number[]> => {
  const { rows } = await client.query<{ origin: number }>(
    "SELECT origin FROM coregent.progress WHERE origin = ANY ($1::int[])",
    [origins],
  );
  return rows.map(({ origin }) => origin);
};

const outcomeText = (region: string, { states, seconds, misfits }: JoinOutcome): string => {
  const copied =
    states === 0
      ? `${region} streams from every peer that can be reached; nothing was left to copy`
      : `${region} has merged ${states} states in ${seconds.toFixed(1)} s and streams from every peer that can be reached`;
  return [copied, ...misfits.map(({ table, reason }) => `  left out for now: ${table}: ${reason}`)].join(
    "\n",
  );
};
