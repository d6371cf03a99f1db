import { Histogram, type Registry } from "prom-client";
import type { Choice } from "../../regions/route.ts";
import type { Master } from "../write/master.ts";
import type { WriterEvents } from "../write/writer.ts";
import { addCounter, addGauge, type Family, type Sample } from "./metrics.ts";

const healths = ["healthy", "suspect", "down"] as const;

/** From a read at a master nearby to a write that waits for other continents, or for a takeover. */
const bucketsS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

/** What the metrics tell of a master. */
export type MeasuredMaster = Pick<Master, "name" | "health" | "load" | "drained" | "roundTripMs"> & {
  readonly connections: Pick<Master["connections"], "queued" | "inFlight" | "idle">;
};

/**
 * The regional writer's metrics.
 * @param masters as they are when the page is asked for
 * @returns what the writer is to report to
 */
export const registerWriterMetrics = (
  registry: Registry,
  masters: () => readonly MeasuredMaster[],
): WriterEvents => {
  const counts = new RoutingCounts();
  const duration = (name: string, help: string) =>
    new Histogram({ name, help, labelNames: ["region"], buckets: bucketsS, registers: [registry] });
  const writes = duration(
    "coregent_write_duration_seconds",
    "From a write's beginning to its commit, and its durability where that is wanted, by the region that wrote.",
  );
  const reads = duration(
    "coregent_read_duration_seconds",
    "From a read's beginning to its rows, waiting for the session included, by the region that was read.",
  );
  for (const family of gauges(masters)) addGauge(registry, family);
  for (const family of counters(counts, masters)) addCounter(registry, family);
  return {
    routed: ({ region, choice, takeover }, tookMs) => {
      counts.routed(region, choice);
      if (takeover) counts.tookOver(region);
      writes.observe({ region }, tookMs / 1000);
    },
    failedOver: (from) => counts.failedOver(from),
    read: (region, tookMs) => reads.observe({ region }, tookMs / 1000),
  };
};

class RoutingCounts {
  readonly routes = new Map<string, Map<Choice, number>>();
  readonly takeovers = new Map<string, number>();
  readonly failovers = new Map<string, number>();

  routed(region: string, choice: Choice): void {
    const choices = this.routes.get(region) ?? new Map<Choice, number>();
    this.routes.set(region, choices);
    choices.set(choice, (choices.get(choice) ?? 0) + 1);
  }

  tookOver(region: string): void {
    this.takeovers.set(region, (this.takeovers.get(region) ?? 0) + 1);
  }

  failedOver(from: string): void {
    this.failovers.set(from, (this.failovers.get(from) ?? 0) + 1);
  }
}

type Masters = () => readonly MeasuredMaster[];

const perMaster = (
  masters: Masters,
  metric: { readonly name: string; readonly help: string },
  value: (master: MeasuredMaster) => number,
): Family => ({
  ...metric,
  labels: ["region"],
  samples: () => masters().map((master): Sample => [{ region: master.name }, value(master)]),
});

const gauges = (masters: Masters): Family[] => [
  {
    name: "coregent_master_health",
    help: "1 for the health of the region's master, as this endpoint sees it.",
    labels: ["region", "health"],
    samples: () =>
      masters().flatMap(({ name, health: { health } }) =>
        healths.map((each): Sample => [{ region: name, health: each }, each === health ? 1 : 0]),
      ),
  },
  perMaster(
    masters,
    { name: "coregent_master_drained", help: "1 while the region is out for maintenance." },
    ({ drained }) => (drained ? 1 : 0),
  ),
  perMaster(
    masters,
    {
      name: "coregent_master_share",
      help: "Of the writes meant for the master, the part that it gets; below 1 while it has too much to do.",
    },
    (master) => master.load().share,
  ),
  perMaster(
    masters,
    { name: "coregent_master_round_trip_seconds", help: "As probes measure it; NaN: not yet." },
    ({ roundTripMs }) => (roundTripMs === null ? NaN : roundTripMs / 1000),
  ),
  perMaster(
    masters,
    { name: "coregent_master_queued_requests", help: "Requests that wait for one of the master's sessions." },
    ({ connections }) => connections.queued,
  ),
  perMaster(
    masters,
    { name: "coregent_master_in_flight_requests", help: "Requests that hold one of the master's sessions." },
    ({ connections }) => connections.inFlight,
  ),
  perMaster(
    masters,
    { name: "coregent_master_idle_sessions", help: "Sessions with the master that no request holds." },
    ({ connections }) => connections.idle,
  ),
];

const counters = (counts: RoutingCounts, masters: Masters): Family[] => [
  {
    name: "coregent_writes_total",
    help: "Writes that were answered, by the region that wrote and why it was chosen.",
    labels: ["region", "reason"],
    samples: function* () {
      for (const [region, choices] of counts.routes) {
        for (const [reason, count] of choices) yield [{ region, reason }, count];
      }
    },
  },
  // Zeros are shown, so that the first is an increase and not a series from nowhere.
  perMaster(
    masters,
    { name: "coregent_takeovers_total", help: "Writes in place of an owner that was down, by who wrote." },
    ({ name }) => counts.takeovers.get(name) ?? 0,
  ),
  perMaster(
    masters,
    {
      name: "coregent_failovers_total",
      help: "Writes that failed for want of the region's master and were tried anew.",
    },
    ({ name }) => counts.failovers.get(name) ?? 0,
  ),
];
