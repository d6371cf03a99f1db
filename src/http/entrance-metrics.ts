import type { Registry } from "prom-client";
import type { EntranceStatus } from "../entrance/counters.ts";
import { addCounter, addGauge, type Family, type Sample } from "./metrics.ts";

/** The metrics of the PostgreSQL entrance, read from its status when the page is asked for. */
export const registerEntranceMetrics = (registry: Registry, status: () => EntranceStatus): void => {
  for (const family of gauges(status)) addGauge(registry, family);
  for (const family of counters(status)) addCounter(registry, family);
};

const by = (label: string, counts: ReadonlyMap<string, number>): Sample[] =>
  [...counts].map(([value, count]) => [{ [label]: value }, count]);

const gauges = (status: () => EntranceStatus): Family[] => [
  {
    name: "coregent_entrance_sessions",
    help: "Open sessions of PostgreSQL clients, by the region whose master they are led to.",
    labels: ["master"],
    samples: () => by("master", status().sessions),
  },
  {
    name: "coregent_entrance_starting",
    help: "PostgreSQL clients that have no session yet, or none any more.",
    labels: [],
    samples: () => [[{}, status().starting]],
  },
];

const counters = (status: () => EntranceStatus): Family[] => [
  {
    name: "coregent_entrance_sessions_total",
    help: "Sessions of PostgreSQL clients begun, by the region whose master they were led to.",
    labels: ["master"],
    samples: () => by("master", status().opened),
  },
  {
    name: "coregent_entrance_ended_total",
    help: "Sessions ended, by who or what ended them: client, master, down, drained, stopped.",
    labels: ["reason"],
    samples: () => by("reason", status().ended),
  },
  {
    name: "coregent_entrance_refused_total",
    help: "PostgreSQL clients that got no session, by the SQLSTATE that they were told.",
    labels: ["sqlstate"],
    samples: () => by("sqlstate", status().refused),
  },
  {
    name: "coregent_entrance_dropped_total",
    help: "PostgreSQL clients dropped because too many had not begun.",
    labels: [],
    samples: () => [[{}, status().dropped]],
  },
  {
    name: "coregent_entrance_cancel_requests_total",
    help: "Cancel requests in clear text.",
    labels: [],
    samples: () => [[{}, status().cancelRequests]],
  },
  {
    name: "coregent_entrance_bytes_total",
    help: "Bytes passed on by the PostgreSQL entrance.",
    labels: ["to"],
    samples: () => [
      [{ to: "clients" }, status().bytesToClients],
      [{ to: "masters" }, status().bytesToMasters],
    ],
  },
];
