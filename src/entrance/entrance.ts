import { createServer, type Server, type Socket } from "node:net";
import type { Logger } from "pino";
import type { HostPort } from "../../regions/topology.ts";
import { ClientPlaces, type Place, type PlaceSettings } from "../client-places.ts";
import type { Clock } from "../clock.ts";
import type { EntranceBounds } from "./bounds.ts";
import { cancelTargets, sendCancel, type CancelRequest } from "./cancel.ts";
import { Conversation } from "./conversation.ts";
import { EntranceCounters, type EntranceStatus } from "./counters.ts";
import { hangUp } from "./upstream.ts";
import type { EntranceMasters, MasterState } from "./masters.ts";
import { openSession } from "./opening.ts";
import type { SessionError } from "./packets.ts";
import { Session, type SessionEnd } from "./session.ts";

export interface EntranceOptions {
  /** Port 0: one that is free. */
  readonly listen: HostPort;
  readonly masters: EntranceMasters;
  readonly bounds: EntranceBounds;
  /** As they are at the moment of the call. */
  readonly places: () => PlaceSettings;
  readonly clock: Clock;
  readonly logger: Logger;
}

const sweepMs = 250;

/**
 * Where PostgreSQL clients come in. Each connection is led to the first master of the candidates that answers, and from
 * then on its bytes pass as they are: no SQL is read, and TLS and passwords are between the client and the master.
 *
 * A session stays with its master. When that one is marked down, the session is ended, with a reason where the client is
 * at a place to hear it, and the client's next connection is led elsewhere.
 */
export class Entrance implements AsyncDisposable {
  readonly #options: EntranceOptions;
  readonly #server: Server;
  /** Clients that have no session, or had none and shall hang up; the one that came first in front. */
  readonly #starting = new Set<Socket>();
  readonly #sessions = new Set<Session>();
  readonly #states = new Map<string, MasterState>();
  readonly #counters = new EntranceCounters();
  readonly #places: ClientPlaces;
  #opening = 0;
  #stopping = false;
  #stopWatching: () => void = () => undefined;
  #sweeper: NodeJS.Timeout | null = null;
  #empty: (() => void) | null = null;

  constructor(options: EntranceOptions) {
    this.#options = options;
    this.#places = new ClientPlaces(options.places);
    const { keepAliveMs, maxSessions, maxStarting } = options.bounds;
    this.#server = createServer(
      {
        allowHalfOpen: true,
        noDelay: true,
        keepAlive: true,
        keepAliveInitialDelay: keepAliveMs,
        pauseOnConnect: true,
      },
      (client) => void this.#accept(client),
    );
    // Beyond it the system's own queue of connections is the bound.
    this.#server.maxConnections = maxSessions + maxStarting + 1;
  }

  /** Rejects with the system's error if it cannot listen there. */
  async listen(): Promise<void> {
    const { listen, masters, logger } = this.#options;
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen(listen, () => {
        this.#server.off("error", reject);
        resolve();
      });
    });
    // Such as too many open files: the clients in the queue wait, and those that are in go on.
    this.#server.on("error", (error) => logger.error({ error: error.message }, "the entrance cannot accept"));
    this.#stopWatching = masters.watch((region, state) => this.#onMaster(region, state));
  }

  get port(): number {
    const address = this.#server.address();
    return address !== null && typeof address === "object" ? address.port : this.#options.listen.port;
  }

  get status(): EntranceStatus {
    return this.#counters.status(this.#starting.size, this.#sessions);
  }

  /**
   * Takes no more clients, ends each session when it is idle, and after `graceMs` those that are left. Resolves when
   * all connections are closed.
   */
  async close({ graceMs }: { readonly graceMs: number }): Promise<void> {
    this.#stopping = true;
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#sweepWhileDraining();
    const { promise: empty, resolve } = Promise.withResolvers<void>();
    this.#empty = resolve;
    this.#noticeEmpty();
    const late = setTimeout(resolve, graceMs);
    await empty;
    clearTimeout(late);
    for (const session of this.#sessions) session.close("stopped");
    for (const session of this.#sessions) session.destroy();
    for (const client of this.#starting) client.destroy();
    await closed;
    this.#stopWatching();
    if (this.#sweeper !== null) clearInterval(this.#sweeper);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close({ graceMs: 0 });
  }

  async #accept(client: Socket): Promise<void> {
    const { bounds, masters } = this.#options;
    client.on("error", () => undefined);
    const place = this.#places.enter(client);
    if (place === "crowded") {
      this.#counters.dropped();
      client.destroy();
      return;
    }
    this.#starting.add(client);
    this.#dropLongest();
    const gone = new AbortController();
    client.once("close", () => {
      this.#starting.delete(client);
      gone.abort("the client has gone");
    });
    let admitted = false;
    const opened = await openSession({
      client,
      masters,
      bounds,
      signal: gone.signal,
      refusal: () => {
        const refusal = admitted ? null : this.#refusal(place);
        if (refusal === null && !admitted) {
          admitted = true;
          this.#opening += 1;
        }
        return refusal;
      },
      onRefused: ({ code }) => this.#counters.refused(code),
      cancel: (packet) => this.#cancel({ ...packet, address: client.remoteAddress ?? "" }),
    });
    if (admitted) this.#opening -= 1;
    if (opened === null) {
      hangUp(client, bounds.lingerMs);
      this.#noticeEmpty();
      return;
    }
    this.#starting.delete(client);
    const session = new Session({
      ...opened,
      client,
      conversation: opened.encrypted ? null : new Conversation(),
      lingerMs: bounds.lingerMs,
      monotonic: this.#options.clock.monotonic,
      onIdle: (idle) => this.#onIdle(idle),
      onEnd: (ended, how) => this.#onEnd(ended, how),
    });
    this.#sessions.add(session);
    this.#counters.opened(session.master.region);
    session.start();
    // It may have gone down after its answer.
    if (this.#states.get(session.master.region) === "down") session.close("down");
  }

  #refusal(place: Place): SessionError | null {
    if (this.#stopping) {
      return { code: "57P03", message: "the entrance is being stopped", hint: "Connect to another region." };
    }
    if (place !== "free") {
      const { connectionsPerAddress } = this.#options.places();
      return {
        code: "53300",
        message: `this address has its ${connectionsPerAddress} connections to the entrance`,
        hint: "Use a pool of connections, or raise endpoint.connectionsPerAddress.",
      };
    }
    const { maxSessions } = this.#options.bounds;
    return this.#sessions.size + this.#opening < maxSessions
      ? null
      : {
          code: "53300",
          message: `the entrance has its ${maxSessions} sessions`,
          hint: "Use a pool of connections, or raise the bound.",
        };
  }

  /** Whoever begins promptly gets in, however many others hold their connections without a word. */
  #dropLongest(): void {
    for (const client of this.#starting) {
      if (this.#starting.size <= this.#options.bounds.maxStarting) return;
      this.#starting.delete(client);
      this.#counters.dropped();
      client.destroy();
    }
  }

  async #cancel(request: CancelRequest): Promise<void> {
    const { masters, bounds } = this.#options;
    this.#counters.cancelled();
    const targets = cancelTargets(request, this.#sessions, masters);
    await Promise.all(targets.map((master) => sendCancel(master, request.data, bounds)));
  }

  #onMaster(region: string, state: MasterState): void {
    this.#states.set(region, state);
    const theirs = [...this.#sessions].filter(({ master }) => master.region === region);
    const { logger } = this.#options;
    switch (state) {
      case "up":
        return;
      case "draining":
        this.#sweepWhileDraining();
        return;
      case "down":
        if (theirs.length > 0) {
          logger.warn(
            { master: region, sessions: theirs.length },
            "sessions are closed: their master is down",
          );
        }
        for (const session of theirs) session.close("down");
    }
  }

  /** Why an idle session there is to end; null: it may stay. */
  #endOfIdle(session: Session): SessionEnd | null {
    if (this.#stopping) return "stopped";
    return this.#states.get(session.master.region) === "draining" ? "drained" : null;
  }

  #onIdle(session: Session): void {
    const end = this.#endOfIdle(session);
    if (end !== null) session.close(end);
  }

  #sweepWhileDraining(): void {
    const sweep = (): void => {
      for (const session of this.#sessions) {
        if (session.isIdle(this.#options.bounds.quietMs)) this.#onIdle(session);
      }
      const draining = this.#stopping || [...this.#states.values()].includes("draining");
      if (draining || this.#sweeper === null) return;
      clearInterval(this.#sweeper);
      this.#sweeper = null;
    };
    this.#sweeper ??= setInterval(sweep, sweepMs);
    sweep();
  }

  #onEnd(session: Session, how: SessionEnd): void {
    this.#sessions.delete(session);
    this.#counters.ended(session, how);
    if (how === "master") this.#options.masters.doubt(session.master.region);
    this.#noticeEmpty();
  }

  #noticeEmpty(): void {
    if (this.#sessions.size + this.#opening === 0) this.#empty?.();
  }
}

/** @returns an entrance that listens; rejects with the system's error if it cannot */
export const startEntrance = async (options: EntranceOptions): Promise<Entrance> => {
  const entrance = new Entrance(options);
  await entrance.listen();
  return entrance;
};
