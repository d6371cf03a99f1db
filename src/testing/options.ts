import type { WriterSettings } from "../../regions/writer-settings.ts";
import type { PostgresVersion } from "../embedded/binaries.ts";

/** One entry of `tables:` in coregent.yaml. */
export interface TableOptions {
  /** `schema.table`. */
  readonly name: string;
  /** The column that names each row's owning region. */
  readonly owner?: string;
  readonly failover?: "takeover" | "provisional";
  readonly conflict?: "latest";
  readonly route?: "owner" | "nearest";
}

/** `endpoint:` in coregent.yaml. */
export interface EndpointOptions {
  readonly tokens?: readonly {
    readonly name: string;
    /** SHA-256 of the token, in hexadecimal. */
    readonly sha256: string;
    readonly role: "reader" | "writer" | "admin";
  }[];
  readonly anonymous?: "none" | "reader" | "writer";
  readonly requestsPerSecond?: number;
  readonly connectionsPerAddress?: number;
  readonly sharedAddresses?: readonly string[];
  /** How long an agent that is stopped goes on serving, and says that it is not ready; default here 0. */
  readonly stopPauseMs?: number;
}

export interface ClusterOptions {
  /** Names, or how many: then they are called a, b, c and so on. Region ids count from 1. */
  readonly regions: number | readonly string[];
  /** SQL run in every region's database (called `app`) before Coregent is installed there. */
  readonly schema?: string;
  readonly tables?: readonly TableOptions[];
  /** Schemas whose tables are replicated; default public. */
  readonly schemas?: readonly string[];
  /** Major version of PostgreSQL, of all regions or of each by its name; default 18. */
  readonly version?: PostgresVersion | Readonly<Record<string, PostgresVersion>>;
  /** Delay of each direction of each link between two regions, in milliseconds; default 0. */
  readonly latencyMs?: number;
  /** Seed of the network's jitter and loss; default 1. */
  readonly seed?: number;
  /** PostgreSQL settings of every server, e.g. `{ wal_sender_timeout: "3s" }`. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Environment variables of the agents, over those of this process. */
  readonly env?: Readonly<Record<string, string>>;
  /** false: databases with the schema only, as before `coregent init`; no agents either. Default true. */
  readonly install?: boolean;
  /** false: no agents; `startAgent` starts one later. Default true. */
  readonly agents?: boolean;
  /** Bounds of the regional writer, as under `writer:` in coregent.yaml. */
  readonly writer?: Partial<WriterSettings>;
  /** Whether outages may be simulated by `coregent outage`; default false. */
  readonly outages?: boolean;
  /** Who may use the agents' HTTP endpoints, as under `endpoint:` in coregent.yaml; default: everybody on this machine. */
  readonly endpoint?: EndpointOptions;
  /** Name of the cluster; default `test`. */
  readonly cluster?: string;
  /**
   * Holds data, configuration and logs; default: a temporary one, removed at the end unless the environment variable
   * COREGENT_TEST_KEEP is set.
   */
  readonly folder?: string;
}

export interface CutOptions {
  /** Changes of the first region do not reach the second; those of the second still reach the first. */
  readonly oneWay?: boolean;
  /**
   * `blackhole` (default): nothing arrives and nobody is told, as when a cable is pulled. `reset`: connections break
   * at once and new ones are refused.
   */
  readonly mode?: "blackhole" | "reset";
}

export interface KillOptions {
  /** Default `both`. */
  readonly what?: "agent" | "server" | "both";
}

export const regionNames = (regions: ClusterOptions["regions"]): readonly string[] => {
  if (typeof regions !== "number") return regions;
  if (!Number.isInteger(regions) || regions < 1 || regions > 26) {
    throw new RangeError(`regions must be names, or a number from 1 to 26; it is ${regions}`);
  }
  return Array.from({ length: regions }, (_, i) => String.fromCodePoint(97 + i));
};

export const versionOf = (options: ClusterOptions, region: string): PostgresVersion =>
  (typeof options.version === "object" ? options.version[region] : options.version) ?? 18;
