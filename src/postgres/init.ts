import type { Client } from "pg";
import { clusterSlug, type Region, type Topology } from "../../regions/topology.ts";
import { recordAudit } from "./audit.ts";
import { checkCluster } from "./check.ts";
import type { Finding } from "./check-finding.ts";
import { connect } from "./client.ts";
import { installRegion } from "./install/region.ts";
import { changesOf } from "./install/report.ts";
import { ensureSlot } from "./install/slots.ts";
import type { LockPatience } from "./install/transaction.ts";

export interface InitOptions extends LockPatience {
  /** Says what is in the way in any region, before anything is changed. */
  readonly check?: (topology: Topology) => Promise<readonly Finding[]>;
  readonly signal?: AbortSignal;
  /** Told what is being done. */
  readonly onProgress?: (text: string) => void;
}

export interface RegionChanges {
  readonly region: string;
  /** A line for each thing that was done; none: the region was as it should be. */
  readonly changes: readonly string[];
}

export interface InitReport {
  readonly regions: readonly RegionChanges[];
  /** If any is critical, nothing was changed anywhere. */
  readonly findings: readonly Finding[];
}

interface Connected {
  readonly region: Region;
  readonly client: Client;
  readonly changes: string[];
}

/** Connects to every region before anything is done in one of them. */
const connectAll = async (topology: Topology, applicationName: string): Promise<Connected[]> => {
  const results = await Promise.allSettled(
    topology.regions.map(async (region) => ({
      region,
      client: await connect(region.postgres.reveal(), { applicationName }),
      changes: [],
    })),
  );
  const connected = results.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
  const failed = results.find((result) => result.status === "rejected");
  if (failed !== undefined) {
    await Promise.allSettled(connected.map(({ client }) => client.end()));
    throw failed.reason;
  }
  return connected;
};

/** Runs `work` with a session to every region, and ends them. */
export const withRegions = async <T>(
  topology: Topology,
  applicationName: string,
  work: (regions: readonly Connected[]) => Promise<T>,
): Promise<T> => {
  const regions = await connectAll(topology, applicationName);
  try {
    return await work(regions);
  } finally {
    await Promise.allSettled(regions.map(({ client }) => client.end()));
  }
};

const installAll = async (
  regions: readonly Connected[],
  topology: Topology,
  options: InitOptions,
): Promise<void> => {
  for (const { region, client, changes } of regions) {
    options.signal?.throwIfAborted();
    options.onProgress?.(`preparing ${region.name}`);
    const report = await installRegion(client, { ...options, topology, region });
    changes.push(...changesOf(report));
  }
};

const makeSlots = async (
  regions: readonly Connected[],
  topology: Topology,
  options: InitOptions,
): Promise<void> => {
  const cluster = clusterSlug(topology.cluster);
  for (const source of regions) {
    for (const target of regions) {
      if (source === target) continue;
      options.signal?.throwIfAborted();
      options.onProgress?.(
        `slot of ${target.region.name} at ${source.region.name} (waits for transactions that are open there)`,
      );
      const ends = {
        source: { id: source.region.id, client: source.client },
        target: { id: target.region.id, client: target.client },
      };
      if (await ensureSlot(ends, cluster)) source.changes.push(`slot for ${target.region.name} made`);
    }
  }
};

/** What an earlier run has made, and what has drifted since, is mended and is no reason to refuse. */
const checkBefore = (topology: Topology, signal: AbortSignal | undefined): Promise<readonly Finding[]> =>
  checkCluster(topology, { drift: false, ...(signal === undefined ? {} : { signal }) });

/**
 * Prepares every region of the topology: checks them all, installs in them all, then makes the slots. Idempotent; cut
 * short, it goes on where it was when it is run again.
 * @throws what connecting or installing throws; what is in the way is not thrown but found
 */
export const initCluster = async (topology: Topology, options: InitOptions = {}): Promise<InitReport> => {
  options.onProgress?.("checking every region");
  const check = options.check ?? (() => checkBefore(topology, options.signal));
  const findings = await check(topology);
  if (findings.some((finding) => finding.severity === "critical")) return { regions: [], findings };
  return await withRegions(topology, "coregent init", async (regions) => {
    await installAll(regions, topology, options);
    await makeSlots(regions, topology, options);
    for (const { client, changes } of regions) {
      if (changes.length > 0) await recordAudit(client, { action: "init", detail: changes.join("; ") });
    }
    return {
      regions: regions.map(({ region, changes }) => ({ region: region.name, changes })),
      findings,
    };
  });
};
