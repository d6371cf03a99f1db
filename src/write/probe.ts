import type { Socket } from "node:net";
import type { Client } from "pg";
import type { Region } from "../../regions/topology.ts";
import type { WriterSettings } from "../../regions/writer-settings.ts";
import { connect } from "../postgres/client.ts";
import type { Line } from "../postgres/line.ts";
import { destroy } from "./connections.ts";
import { queryPrepared } from "./prepared-query.ts";

/**
 * What a probe asks: whether the master may be written to, and its clock. Where an earlier release has installed there is no
 * column drained_at; a row as JSON can be asked for it all the same.
 */
const statement = {
  name: "coregent probe",
  text: `
SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on', coregent.clock_us(),
       EXISTS (SELECT FROM coregent.local AS l WHERE to_jsonb(l) ->> 'drained_at' IS NOT NULL)`,
};

export interface Wellness {
  readonly standby: boolean;
  readonly readOnly: boolean;
  /** Microseconds since 1970. */
  readonly clock: number;
  readonly drained: boolean;
}

export const askWhetherWell = async (session: Client): Promise<Wellness> => {
  const { rows } = await queryPrepared(session, statement);
  const [standby, readOnly, clock, drained] = rows[0] ?? [];
  return {
    standby: standby === "t",
    readOnly: readOnly === "t",
    clock: Number(clock),
    drained: drained === "t",
  };
};

export interface ProbeSessionOptions {
  readonly region: () => Region;
  readonly settings: () => WriterSettings;
  readonly line: Line | undefined;
}

/** The session with a master that no request ever holds, and how far it has come while it connects. */
export class ProbeSession {
  readonly #options: ProbeSessionOptions;
  #client: Client | null = null;
  #socket: Socket | null = null;
  #dropped: AbortController | null = null;

  constructor(options: ProbeSessionOptions) {
    this.#options = options;
  }

  get open(): Client | null {
    return this.#client;
  }

  /** Grows with whatever comes from the master. */
  get heard(): number {
    return this.#socket === null || this.#socket.pending ? 0 : 1 + this.#socket.bytesRead;
  }

  /** @throws what connecting throws, also when it was dropped meanwhile */
  async connected(): Promise<Client> {
    if (this.#client !== null) return this.#client;
    const { region, settings, line } = this.#options;
    const dropped = new AbortController();
    this.#dropped = dropped;
    const client = await connect(region().postgres.reveal(), {
      applicationName: `coregent probe ${region().name}`,
      pipeline: true,
      connectTimeoutMs: connectTimeoutMs(settings()),
      line,
      signal: dropped.signal,
      onSocket: (socket) => {
        this.#socket = socket;
      },
    });
    if (dropped.signal.aborted) {
      destroy(client);
      throw dropped.signal.reason;
    }
    this.#client = client;
    return client;
  }

  /** Also gives up connecting. */
  drop(): void {
    const client = this.#client;
    this.#client = null;
    this.#socket = null;
    this.#dropped?.abort();
    this.#dropped = null;
    if (client !== null) destroy(client);
  }
}

/**
 * Connecting takes half a dozen round trips, more with TLS, and each may take as long as we are ever patient. Whether there
 * is progress is looked at meanwhile.
 */
const connectTimeoutMs = ({ probeTimeoutMs }: WriterSettings): number =>
  Math.max(10_000, 24 * probeTimeoutMs);

/** For people, after "it": no host, port or user, since /v1/route shows it. */
export const reasonOf = (error: unknown): string => {
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  switch (code) {
    case "ECONNREFUSED":
      return "refuses connections";
    case "42883":
    case "3F000":
    case "42P01":
      return "lacks Coregent's functions (coregent init)";
    default:
      return code === "" ? "breaks connections" : `cannot be reached (${code})`;
  }
};
