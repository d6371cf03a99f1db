import { openEndpoint } from "../../regions/endpoint-settings.ts";
import { noClientSettings } from "../../regions/client-settings.ts";
import type { Topology } from "../../regions/topology.ts";
import { defaultWriterSettings } from "../../regions/writer-settings.ts";
import { postgresUrl } from "../../regions/secret.ts";
import { agentReport } from "../../src/http/report.ts";
import { newLinkStatus } from "../../src/replication/status.ts";
import type { InstalledReading, RegionReading, SlotReading } from "../../src/cli/status-read.ts";

export const atMs = Date.UTC(2026, 5, 1, 12);

const names = ["moldova", "argentina", "new-zealand"] as const;

export const topology: Topology = {
  cluster: "Weight-Book",
  regions: names.map((name, index) => ({
    name,
    id: index + 1,
    latitude: 0,
    longitude: 0,
    postgres: postgresUrl(`postgres://app:secret@${name}.invalid/weightbook`),
    api: `http://127.0.0.1:${7401 + index}`,
    entrance: null,
  })),
  schemas: ["public"],
  tables: [],
  writer: defaultWriterSettings,
  clients: noClientSettings,
  endpoint: openEndpoint,
  outages: { allowed: false },
};

export const slot = (
  sourceId: number,
  consumerId: number,
  change: Partial<SlotReading> = {},
): SlotReading => ({
  name: `coregent_weight_book_${sourceId}_${consumerId}`,
  active: true,
  walStatus: "reserved",
  invalidationReason: null,
  retainedBytes: 4096,
  lagBytes: 0,
  ...change,
});

type Change = { installed?: Partial<InstalledReading>; reading?: Partial<RegionReading>; skewMs?: number };

/** Three regions that are well, but for what is changed. */
export const readings = (changes: Partial<Record<(typeof names)[number], Change>> = {}): RegionReading[] =>
  names.map((region, index) => {
    const id = index + 1;
    const peers = names.filter((name) => name !== region);
    const change = changes[region] ?? {};
    return {
      region,
      id,
      database: {
        serverVersion: "18.4",
        roundTripMs: 3,
        clockSkewMs: change.skewMs ?? 0,
        installed: {
          cluster: topology.cluster,
          regionId: id,
          regionName: region,
          tables: 4,
          drainedAt: null,
          agentActive: true,
          slots: [1, 2, 3].filter((other) => other !== id).map((other) => slot(id, other)),
          progress: [1, 2, 3]
            .filter((other) => other !== id)
            .map((origin) => ({ origin, lsn: "0/1000", ageSeconds: 4 })),
          syncs: [],
          quarantine: [],
          conflicts: {},
          ...change.installed,
        },
      },
      agent: agentReport(
        {
          region,
          regionId: id,
          cluster: topology.cluster,
          version: "0.1.0",
          role: "active",
          startedAtMs: atMs,
          links: new Map(
            peers.map((peer) => [
              peer,
              { ...newLinkStatus(peer, names.indexOf(peer) + 1, atMs), state: "streaming", roundTripMs: 181 },
            ]),
          ),
          quarantined: new Map(),
          slots: [],
        },
        atMs,
      ),
      ...change.reading,
    };
  });
