import process from "node:process";
import { Counter, Gauge, type Registry } from "prom-client";
import type { AgentStatus, LinkState, LinkStatus } from "../replication/status.ts";
import { lagBytes, lagSeconds, unconfirmedBytes } from "./lag.ts";

/**
 * The agent's metrics, in the Prometheus exposition format. Every value is read from the status when the page
 * is asked for: no timers, and nothing is counted a second time here.
 */
export interface MetricsOptions {
  readonly registry: Registry;
  readonly status: AgentStatus;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

export type Labels = Record<string, string>;
export type Sample = readonly [labels: Labels, value: number];

export interface Family {
  readonly name: string;
  readonly help: string;
  readonly labels: readonly string[];
  readonly samples: () => Iterable<Sample>;
}

const linkStates: readonly LinkState[] = ["connecting", "resyncing", "streaming", "waiting", "stopped"];
const roles: readonly AgentStatus["role"][] = ["starting", "standby", "active", "stopping"];
const reactions = ["retry", "resync", "quarantine", "stop"] as const;
const walStates = ["reserved", "extended", "unreserved", "lost"] as const;

export const registerMetrics = (options: MetricsOptions): void => {
  const { registry } = options;
  for (const family of [...agentGauges(options), ...linkGauges(options), ...slotGauges(options)]) {
    addGauge(registry, family);
  }
  for (const family of [...linkCounters(options), ...processCounters()]) {
    addCounter(registry, family);
  }
};

export const addGauge = (registry: Registry, family: Family): void => {
  const gauge = new Gauge({
    name: family.name,
    help: family.help,
    labelNames: family.labels,
    registers: [registry],
    collect: () => {
      gauge.reset();
      for (const [labels, value] of family.samples()) {
        gauge.set(labels, value);
      }
    },
  });
};

// The status holds totals and prom-client's counters only grow by increments: start from nothing at each scrape.
export const addCounter = (registry: Registry, family: Family): void => {
  const counter = new Counter({
    name: family.name,
    help: family.help,
    labelNames: family.labels,
    registers: [registry],
    collect: () => {
      counter.reset();
      for (const [labels, value] of family.samples()) {
        counter.inc(labels, value);
      }
    },
  });
};

/** One series per possible value, 1 for the one that holds: what alerts on a state want. */
const oneOf = function* <T extends string>(
  label: string,
  values: readonly T[],
  current: T,
): Generator<Sample> {
  for (const value of values) {
    yield [{ [label]: value }, value === current ? 1 : 0];
  }
};

const agentGauges = ({ status }: MetricsOptions): Family[] => [
  {
    name: "coregent_build_info",
    help: "Always 1; the labels name what runs.",
    labels: ["version", "node", "region", "region_id", "cluster"],
    samples: () => [
      [
        {
          version: status.version,
          node: process.version,
          region: status.region,
          region_id: String(status.regionId),
          cluster: status.cluster,
        },
        1,
      ],
    ],
  },
  {
    name: "coregent_agent_role",
    help: "1 for the role that this agent has. standby: another agent works for the region.",
    labels: ["role"],
    samples: () => oneOf("role", roles, status.role),
  },
  {
    name: "coregent_quarantined_rows",
    help: "Rows of peers that do not fit this region's tables and wait in coregent.quarantine.",
    labels: ["table"],
    samples: () => [...status.quarantined].map(([table, rows]) => [{ table }, rows] as const),
  },
  {
    name: "process_start_time_seconds",
    help: "When the process started, in seconds since 1970.",
    labels: [],
    samples: () => [[{}, status.startedAtMs / 1000]],
  },
  {
    name: "process_resident_memory_bytes",
    help: "Memory of the process.",
    labels: [],
    samples: () => [[{}, process.memoryUsage.rss()]],
  },
];

const processCounters = (): Family[] => [
  {
    name: "process_cpu_seconds_total",
    help: "Processor time of the process, user and system.",
    labels: [],
    samples: () => {
      const { user, system } = process.cpuUsage();
      return [[{}, (user + system) / 1e6]];
    },
  },
];

const perLink = (
  status: AgentStatus,
  metric: { readonly name: string; readonly help: string },
  value: (link: LinkStatus) => number,
): Family => ({
  name: metric.name,
  help: metric.help,
  labels: ["peer"],
  samples: () => [...status.links.values()].map((link) => [{ peer: link.peer }, value(link)] as const),
});

const linkGauges = ({ status, now }: MetricsOptions): Family[] => [
  {
    name: "coregent_link_state",
    help: "1 for the state that the link from this peer is in.",
    labels: ["peer", "state"],
    samples: function* () {
      for (const link of status.links.values()) {
        for (const [labels, value] of oneOf("state", linkStates, link.state)) {
          yield [{ peer: link.peer, ...labels }, value];
        }
      }
    },
  },
  perLink(
    status,
    {
      name: "coregent_link_lag_seconds",
      help: "Age of the peer's oldest change that is not here; while the link does not stream, since it was last up to date.",
    },
    (link) => lagSeconds(link, now()),
  ),
  perLink(
    status,
    { name: "coregent_link_lag_bytes", help: "WAL of the peer, as far as known, that is not merged here." },
    lagBytes,
  ),
  perLink(
    status,
    { name: "coregent_link_unconfirmed_bytes", help: "WAL merged here and not yet confirmed to the peer." },
    unconfirmedBytes,
  ),
  perLink(
    status,
    { name: "coregent_link_clock_skew_seconds", help: "The peer's clock minus this region's." },
    (link) => link.clockSkewMs / 1000,
  ),
  perLink(
    status,
    { name: "coregent_link_round_trip_seconds", help: "Measured round trip to the peer's server." },
    (link) => link.roundTripMs / 1000,
  ),
  perLink(
    status,
    { name: "coregent_link_last_commit_timestamp_seconds", help: "Commit time of the newest merged change." },
    (link) => link.mergedCommitMs / 1000,
  ),
  perLink(
    status,
    { name: "coregent_link_resync_rows", help: "Rows copied of the table being resynced; 0: no resync." },
    (link) => link.resync?.rowsDone ?? 0,
  ),
  perLink(
    status,
    {
      name: "coregent_link_misfit_tables",
      help: "Tables of the peer that do not fit here and are held back.",
    },
    (link) => link.misfits.size,
  ),
];

const linkCounters = ({ status }: MetricsOptions): Family[] => [
  perLink(
    status,
    { name: "coregent_link_transactions_total", help: "Transactions of the peer that were merged." },
    (link) => link.transactions,
  ),
  perLink(
    status,
    { name: "coregent_link_rows_total", help: "Rows of the peer that were merged." },
    (link) => link.rows,
  ),
  perLink(
    status,
    { name: "coregent_link_tombstones_total", help: "Deletes of the peer that were merged." },
    (link) => link.tombstones,
  ),
  perLink(
    status,
    { name: "coregent_link_batches_total", help: "Merge transactions." },
    (link) => link.batches,
  ),
  perLink(
    status,
    { name: "coregent_link_resyncs_total", help: "Slots that were lost or dropped and made anew." },
    (link) => link.resyncs,
  ),
  {
    name: "coregent_conflicts_total",
    help: "Conflicts found here while merging; each is in coregent.conflict.",
    labels: ["peer", "table", "type"],
    samples: function* () {
      for (const link of status.links.values()) {
        for (const [table, types] of link.conflicts) {
          for (const [type, count] of types) {
            yield [{ peer: link.peer, table, type }, count];
          }
        }
      }
    },
  },
  {
    name: "coregent_merge_errors_total",
    help: "Errors of the link by what was done: retry, resync, quarantine, stop.",
    labels: ["peer", "reaction"],
    samples: function* () {
      for (const link of status.links.values()) {
        // Zeros are shown, so that the first error is an increase and not a series from nowhere.
        for (const reaction of new Set([...reactions, ...link.errors.keys()])) {
          yield [{ peer: link.peer, reaction }, link.errors.get(reaction) ?? 0];
        }
      }
    },
  },
];

const slotGauges = ({ status }: MetricsOptions): Family[] => [
  {
    name: "coregent_slot_retained_bytes",
    help: "WAL that this region's server keeps because the peer has not confirmed it.",
    labels: ["slot", "peer"],
    samples: () => status.slots.map((slot) => [{ slot: slot.name, peer: slot.peer }, slot.retainedBytes]),
  },
  {
    name: "coregent_slot_active",
    help: "1 while the peer's agent reads the slot.",
    labels: ["slot", "peer"],
    samples: () => status.slots.map((slot) => [{ slot: slot.name, peer: slot.peer }, slot.active ? 1 : 0]),
  },
  {
    name: "coregent_slot_wal_status",
    help: "1 for the slot's wal_status. unreserved or lost: the peer must resync.",
    labels: ["slot", "peer", "status"],
    samples: function* () {
      for (const slot of status.slots) {
        for (const [labels, value] of oneOf<string>("status", walStates, slot.walStatus)) {
          yield [{ slot: slot.name, peer: slot.peer, ...labels }, value];
        }
      }
    },
  },
];
