import type { Socket } from "node:net";
import { Client, Pool, type ClientBase, type ClientConfig } from "pg";
import { socketReadingInPlace } from "./copy-data.ts";
import { directLine, type Line } from "./line.ts";
import { NoTls, refusesTls, withTls } from "./tls.ts";

/**
 * Settings that change what values look like on the wire or what a session waits for. They are pinned in
 * every session of ours, because regions may differ in them (FAULTS 42).
 */
export const pinnedSettings: Readonly<Record<string, string>> = {
  DateStyle: "ISO, YMD",
  IntervalStyle: "postgres",
  TimeZone: "UTC",
  extra_float_digits: "1",
  bytea_output: "hex",
  client_encoding: "UTF8",
  search_path: "pg_catalog, pg_temp",
  row_security: "off",
  default_transaction_isolation: "read committed",
  statement_timeout: "0",
  lock_timeout: "0",
  idle_in_transaction_session_timeout: "0",
  idle_session_timeout: "0",
  transaction_timeout: "0",
  jit: "off",
  // A client whose machine is gone must not hold a slot, an origin or the agent's lock for hours.
  tcp_keepalives_idle: "10",
  tcp_keepalives_interval: "5",
  tcp_keepalives_count: "3",
};

/** Settings of a session that merges: triggers and foreign keys off, and it yields to local writers. */
export const mergeSettings: Record<string, string> = {
  session_replication_role: "replica",
  lock_timeout: "300ms",
  synchronous_commit: "off",
  // An agent that is frozen, not dead, in the middle of a merge must not hold its locks for ever.
  idle_in_transaction_session_timeout: "2min",
};

export interface ConnectOptions {
  /** Shown in pg_stat_activity, e.g. `coregent link moldova > argentina`. */
  readonly applicationName: string;
  readonly settings?: Readonly<Record<string, string>>;
  readonly connectTimeoutMs?: number;
  /** Gives up connecting. A session that is connected is not touched. */
  readonly signal?: AbortSignal;
  /** How the region's server is reached; default: directly. */
  readonly line?: Line | undefined;
  /** Sends a statement without waiting for the answer to the one before. */
  readonly pipeline?: boolean;
  /** It is to take CopyData from its socket (`takeCopyData`), and much of it. */
  readonly copiesOut?: boolean;
  /** Is given the socket before it connects, to see how far that has come. */
  readonly onSocket?: (socket: Socket) => void;
}

const defaultConnectTimeoutMs = 10_000;

const clientConfig = (url: string, options: ConnectOptions): ClientConfig => ({
  connectionString: withTls(url),
  application_name: options.applicationName.slice(0, 63),
  connectionTimeoutMillis: options.connectTimeoutMs ?? defaultConnectTimeoutMs,
  keepAlive: true,
  keepAliveInitialDelayMillis: 10_000,
});

/** Sets by set_config and not by start-up options, which connection poolers and some hosts refuse. */
const pin = async (client: ClientBase, settings: Readonly<Record<string, string>> = {}): Promise<void> => {
  const all = { ...pinnedSettings, ...settings };
  await client.query(
    `SELECT set_config(s.name, s.value, false)
       FROM unnest($1::text[], $2::text[]) AS s(name, value)
       JOIN pg_catalog.pg_settings p ON lower(p.name) = lower(s.name)`,
    [Object.keys(all), Object.values(all)],
  );
};

const endGraceMs = 1_000;

/**
 * Bounds `client.end()`, which waits until the server has closed the connection: behind a line that is cut that is for
 * ever, and whoever ends its sessions before it goes on would stand still as long.
 */
const endInTime = (client: Client, socket: Socket): void => {
  const end = client.end.bind(client);
  client.end = async () => {
    const timer = setTimeout(() => socket.destroy(), endGraceMs);
    try {
      await end();
    } finally {
      clearTimeout(timer);
    }
  };
};

/** One connected session with pinned settings. The caller listens for `error` if it outlives one query. */
export const connect = async (url: string, options: ConnectOptions): Promise<Client> => {
  const line = options.line ?? directLine;
  const socket = options.copiesOut === true ? socketReadingInPlace(line) : line.socket();
  options.onSocket?.(socket);
  const client = new Client({
    ...clientConfig(url, options),
    stream: () => socket,
    pipeline: options.pipeline ?? false,
  });
  endInTime(client, socket);
  // Without a listener, a connection that breaks between two queries would end the process.
  client.on("error", () => undefined);
  options.signal?.throwIfAborted();
  const giveUp = (): void => void socket.destroy();
  options.signal?.addEventListener("abort", giveUp, { once: true });
  try {
    await client.connect();
    // The line may be cut just now.
    const late = setTimeout(() => socket.destroy(), options.connectTimeoutMs ?? defaultConnectTimeoutMs);
    await pin(client, options.settings).finally(() => clearTimeout(late));
    return client;
  } catch (error) {
    await client.end().catch(() => undefined);
    throw refusesTls(error) ? new NoTls(error) : error;
  } finally {
    options.signal?.removeEventListener("abort", giveUp);
  }
};

/** A pool of sessions with pinned settings, for statements that share nothing. */
export const connectPool = (
  url: string,
  options: ConnectOptions & { readonly maxConnections: number },
): Pool => {
  const pool = new Pool({
    ...clientConfig(url, options),
    stream: () => (options.line ?? directLine).socket(),
    max: options.maxConnections,
    idleTimeoutMillis: 30_000,
    // pg-pool awaits what onConnect returns before it hands the client out; its types say void.
    onConnect: (client) => pin(client, options.settings) as unknown as void,
  });
  pool.on("error", () => undefined);
  return pool;
};
