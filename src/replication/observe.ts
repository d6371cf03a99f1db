import type { Client } from "pg";
import { takeUnlogged } from "../postgres/audit.ts";
import { connect } from "../postgres/client.ts";
import { keptForAbsent, RestartPoints } from "./restart-points.ts";
import type { SlotStatus } from "./status.ts";
import { together } from "./together.ts";
import { type AgentContext, pause } from "./wiring.ts";

/** A table that does not fit is looked at again after as long as it has not fitted, within these bounds. */
const misfitRetry = { first: "1 s", last: "30 s" };

/**
 * Reads every `observeMs` what this region's database says of itself: its peers' slots, rows in quarantine, tables that wait
 * to be copied, whose links `copyWanted` wakes, and what administrators did by commands, for the log. While a peer is away, it has restart
 * points logged in between. Until the signal is aborted; never rejects.
 */
export const observeRegion = async (
  context: AgentContext,
  copyWanted: (peerId: number) => void,
  signal: AbortSignal,
): Promise<void> => {
  const { region, clock, limits, logger } = context;
  while (!signal.aborted) {
    try {
      const client = await connect(region.url, {
        applicationName: `coregent observe ${region.name}`,
        line: region.line,
        pipeline: true,
      });
      try {
        const points = new RestartPoints(context);
        while (!signal.aborted) {
          await observe(client, context, copyWanted);
          const kept = keptForAbsent(slotsOfPeers(context));
          if (kept === null) await clock.beat(limits.observeMs, signal);
          else await points.logFor(limits.observeMs, { client, kept, signal });
        }
      } finally {
        await client.end().catch(() => undefined);
      }
    } catch (error) {
      logger.debug({ err: error }, "the region's own database could not be observed");
      await pause(clock, limits.observeMs, signal);
    }
  }
};

const observe = async (
  client: Client,
  context: AgentContext,
  copyWanted: (peerId: number) => void,
): Promise<void> => {
  const { status } = context;
  const [slots, quarantined, copiesDue] = await together([
    readSlots(client, context),
    readQuarantined(client),
    readCopiesDue(client),
  ]);
  status.slots = slots;
  status.quarantined = quarantined;
  for (const peerId of copiesDue) {
    copyWanted(peerId);
  }
  for (const audit of await takeUnlogged(client)) {
    context.logger.warn({ audit }, "an administrator's command");
  }
};

/** Those of regions that were taken out of the configuration stay until somebody drops them. */
const slotsOfPeers = ({ status, topology }: AgentContext): SlotStatus[] => {
  const peers = new Set(topology().peers.map(({ name }) => name));
  return status.slots.filter(({ peer }) => peers.has(peer));
};

const readSlots = async (client: Client, context: AgentContext): Promise<SlotStatus[]> => {
  const { rows } = await client.query<{
    name: string;
    consumer: number;
    active: boolean;
    wal_status: string | null;
    retained: string | null;
  }>({
    name: "observe-slots",
    text: `SELECT slot_name AS name, split_part(slot_name, '_', -1)::int AS consumer, active, wal_status,
                  (pg_current_wal_lsn() - restart_lsn)::text AS retained
             FROM pg_replication_slots
            WHERE database = current_database() AND slot_name ~ '^coregent_.*_[0-9]+$'
            ORDER BY slot_name`,
  });
  const names = new Map(context.topology().peers.map((peer) => [peer.id, peer.name]));
  return rows.map((row) => ({
    name: row.name,
    peer: names.get(row.consumer) ?? String(row.consumer),
    active: row.active,
    walStatus: row.wal_status ?? "lost",
    retainedBytes: Number(row.retained ?? 0),
  }));
};

const readQuarantined = async (client: Client): Promise<Map<string, number>> => {
  const { rows } = await client.query<{ table_name: string; count: string }>({
    name: "observe-quarantine",
    text: "SELECT table_name, count(*)::text AS count FROM coregent.quarantine GROUP BY table_name",
  });
  return new Map(rows.map((row) => [row.table_name, Number(row.count)]));
};

const readCopiesDue = async (client: Client): Promise<number[]> => {
  const { rows } = await client.query<{ origin: number }>({
    name: "observe-copies",
    text: `SELECT DISTINCT origin FROM coregent.table_sync
            WHERE misfit IS NULL
               OR updated_at < now() - greatest($1::interval, least($2::interval, updated_at - coalesce(started_at, updated_at)))`,
    values: [misfitRetry.first, misfitRetry.last],
  });
  return rows.map((row) => row.origin);
};
