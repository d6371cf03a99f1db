import type { Socket } from "node:net";
import type { Client } from "pg";
import type { Clock } from "../clock.ts";
import { connect } from "../postgres/client.ts";
import { tellsRestamped } from "../postgres/install/statements.ts";
import type { Line } from "../postgres/line.ts";
import { corked } from "../corked.ts";
import { Problem } from "../problems.ts";
import { boundHeldBytes, forgetHeldBytes } from "./held-bytes.ts";

export interface ConnectionsOptions {
  /** The master's region. */
  readonly region: string;
  readonly url: () => string;
  readonly applicationName: string;
  /** How the master is reached; undefined: directly. */
  readonly line?: Line | undefined;
  readonly clock: Clock;
  /** May change while it runs; connections that are there keep what they were made with. */
  readonly bounds: () => {
    readonly maxInFlight: number;
    readonly maxQueue: number;
    readonly maxWaitMs: number;
    readonly statementTimeoutMs: number;
  };
}

/** A session that belongs to one request until it is given back, in the state in which it was taken: no transaction. */
export interface Lease {
  readonly client: Client;
  /** It was there already, so that nothing but waiting went into taking it. */
  readonly warm: boolean;
  readonly giveBack: () => void;
  /** For a session whose state is not known; its transaction ends without effect if it has not been committed. */
  readonly discard: () => void;
}

interface Waiting {
  /** So many are carried out together. */
  readonly requests: number;
  readonly sinceMs: number;
  readonly proceed: () => void;
}

const idleMs = 60_000;

/**
 * The sessions with one master that requests share: so many at most, each used by one request at a time. Requests beyond
 * that wait in order, so many at most, and so long.
 */
export class Connections {
  readonly #options: ConnectionsOptions;
  #idle: { readonly client: Client; readonly sinceMs: number }[] = [];
  readonly #leased = new Set<Client>();
  #waiting: Waiting[] = [];
  #queued = 0;
  #inFlight = 0;
  #broken = new AbortController();

  constructor(options: ConnectionsOptions) {
    this.#options = options;
  }

  /** Sessions that requests hold, or open. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** Requests that wait for one. */
  get queued(): number {
    return this.#queued;
  }

  get idle(): number {
    return this.#idle.length;
  }

  /** How long the first of those that wait has been waiting; 0 if none is. */
  longestWaitMs(nowMs: number): number {
    const [first] = this.#waiting;
    return first === undefined ? 0 : nowMs - first.sinceMs;
  }

  /**
   * A session, as soon as there is one, for so many requests that are carried out together.
   * @throws Problem `overloaded` when too many wait or it took too long; what connecting throws; the signal's reason
   */
  async take(signal: AbortSignal, requests = 1): Promise<Lease> {
    signal.throwIfAborted();
    if (this.#inFlight < this.#options.bounds().maxInFlight) {
      this.#inFlight += 1;
    } else {
      await this.#wait(signal, requests);
    }
    try {
      return await this.#open(signal);
    } catch (error) {
      this.#passOn();
      throw error;
    }
  }

  /** Ends all sessions at once, as when the master is down: what runs in them fails, and nobody waits for an answer. */
  breakAll(): void {
    this.#broken.abort(new Error("Connection terminated: the master is down"));
    this.#broken = new AbortController();
    const all = [...this.#leased, ...this.#idle.map(({ client }) => client)];
    this.#idle = [];
    for (const client of all) destroy(client);
  }

  /** Opens one session if there is none: the first request need not wait for the many round trips of connecting. */
  async warmUp(signal: AbortSignal): Promise<void> {
    if (this.#inFlight === 0 && this.#idle.length === 0) (await this.take(signal)).giveBack();
  }

  /** Ends sessions that nobody has used for a minute, but the one used last. */
  prune(nowMs: number): void {
    const old = this.#idle.slice(0, -1).filter(({ sinceMs }) => nowMs - sinceMs > idleMs);
    this.#idle = this.#idle.filter((each) => !old.includes(each));
    for (const { client } of old) client.end().catch(() => undefined);
  }

  /** Ends idle sessions in order, and the others at once: to be called when no request is under way. */
  async close(): Promise<void> {
    const idle = this.#idle;
    this.#idle = [];
    await Promise.allSettled(idle.map(({ client }) => client.end()));
    this.breakAll();
  }

  async #wait(signal: AbortSignal, requests: number): Promise<void> {
    const { clock, bounds, region } = this.#options;
    const { maxQueue, maxWaitMs } = bounds();
    // What goes together is not torn apart: the last to be let in may bring more than there is room for.
    if (this.#queued >= maxQueue) {
      throw busy(region, `${maxQueue} requests wait for it already`);
    }
    const called = new AbortController();
    const waiting: Waiting = { requests, sinceMs: clock.monotonic(), proceed: () => called.abort() };
    this.#waiting.push(waiting);
    this.#queued += requests;
    await clock.sleep(maxWaitMs, AbortSignal.any([called.signal, signal])).catch(() => undefined);
    if (called.signal.aborted) {
      // Called in the same moment in which the caller went away: the place goes to the next.
      if (signal.aborted) this.#passOn();
      signal.throwIfAborted();
      return;
    }
    this.#waiting = this.#waiting.filter((each) => each !== waiting);
    this.#queued -= requests;
    signal.throwIfAborted();
    throw busy(region, `no session became free within ${maxWaitMs} ms`);
  }

  /** The place of a request that is done goes to the one that waits longest. */
  #passOn(): void {
    const next = this.#waiting.shift();
    if (next === undefined) {
      this.#inFlight -= 1;
    } else {
      this.#queued -= next.requests;
      next.proceed();
    }
  }

  async #open(signal: AbortSignal): Promise<Lease> {
    const idle = this.#idle.pop();
    const client = idle?.client ?? (await this.#connect(signal));
    this.#leased.add(client);
    forgetHeldBytes(client);
    let over = false;
    const end = (how: () => void): void => {
      if (over) return;
      over = true;
      this.#leased.delete(client);
      how();
      this.#passOn();
    };
    return {
      client,
      warm: idle !== undefined,
      giveBack: () => end(() => this.#keep(client)),
      discard: () => end(() => destroy(client)),
    };
  }

  async #connect(signal: AbortSignal): Promise<Client> {
    const { url, applicationName, bounds, line } = this.#options;
    const broken = this.#broken.signal;
    const client = await connect(url(), {
      applicationName,
      line,
      pipeline: true,
      signal: AbortSignal.any([signal, broken]),
      settings: {
        statement_timeout: `${bounds().statementTimeoutMs}ms`,
        // By a notice it tells of versions that have changed (restamped.ts).
        client_min_messages: "notice",
        // The server would work on for a caller who has gone, and hold its locks.
        client_connection_check_interval: "2s",
        idle_in_transaction_session_timeout: `${2 * bounds().statementTimeoutMs}ms`,
      },
    });
    // An application's triggers may need the search_path that its role or database has. Answered before what comes next.
    client.query("RESET search_path").catch(() => undefined);
    client.query(sessionSql).catch(() => undefined);
    boundHeldBytes(client, socketOf(client));
    client.on("end", () => {
      this.#idle = this.#idle.filter((each) => each.client !== client);
    });
    if (broken.aborted) {
      destroy(client);
      throw broken.reason;
    }
    return client;
  }

  #keep(client: Client): void {
    if (socketOf(client).destroyed || this.#inFlight > this.#options.bounds().maxInFlight) {
      destroy(client);
      return;
    }
    this.#idle.push({ client, sinceMs: this.#options.clock.monotonic() });
  }
}

/**
 * What is acknowledged is on disk, also where a role's or a database's default is weaker; a stronger one stays. And the
 * session is told of versions that change after they were returned.
 */
export const sessionSql = `SELECT set_config('${tellsRestamped}', 'on', false),
       CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', false) END`;

const busy = (region: string, why: string): Problem =>
  new Problem("overloaded", `the master of ${region} has too much to do: ${why}`, {
    region,
    retryAfterSeconds: 1,
  });

/** The driver's types leave it out. */
const socketOf = (client: Client): Socket =>
  (client as unknown as { connection: { stream: Socket } }).connection.stream;

/** What is sent at once goes in one piece. */
export const together = <T>(client: Client, send: () => T): T => corked(socketOf(client), send);

/** `end()` waits for the server, and behind a line that is cut that is for ever. */
export const destroy = (client: Client): void => {
  socketOf(client).destroy();
  client.end().catch(() => undefined);
};
