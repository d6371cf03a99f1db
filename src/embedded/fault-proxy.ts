import { connect, createServer, type Server, type Socket } from "node:net";
import { Lane, type Conditions, type LaneState } from "./fault-lane.ts";

export type { Conditions } from "./fault-lane.ts";

/** Seen from the one who connects: what it sends goes to the server. */
export type Direction = "toServer" | "toClient";

export interface ProxyOptions {
  readonly target: { readonly host: string; readonly port: number };
  /** Where jitter and loss come from; in [0, 1). */
  readonly random: () => number;
  readonly toServer?: Partial<Conditions>;
  readonly toClient?: Partial<Conditions>;
  /** Default: a free one. */
  readonly port?: number;
}

/**
 * How a link is cut. `reset`: connections break at once, new ones too, as from a firewall that refuses.
 * `blackhole`: nothing arrives any more and nobody is told, as from a cable pulled; what was under way arrives after
 * healing, unless one end has given up. A blackhole may be of one direction only.
 */
export interface Cut {
  readonly mode: "reset" | "blackhole";
  readonly direction?: Direction;
}

const perfect: Conditions = { latencyMs: 0, jitterMs: 0, loss: 0, bytesPerSecond: null };

const laneState = (conditions: Partial<Conditions> = {}): LaneState => ({
  conditions: { ...perfect, ...conditions },
  blocked: false,
  bytes: 0,
  lineFreeAt: 0,
});

interface Connection {
  readonly client: Socket;
  /** null while the way to the server is cut: it has not heard of this connection. */
  upstream: Socket | null;
  lanes: readonly Lane[];
}

/** A TCP proxy for one directed link, in this process: a port that leads to the target, with the faults of a network. */
export class FaultProxy implements AsyncDisposable {
  readonly #options: ProxyOptions;
  readonly #server: Server;
  readonly #states: Readonly<Record<Direction, LaneState>>;
  readonly #connections = new Set<Connection>();
  #refuses = false;
  #port = 0;
  #accepted = 0;

  constructor(options: ProxyOptions) {
    this.#options = options;
    this.#states = { toServer: laneState(options.toServer), toClient: laneState(options.toClient) };
    // Half-open: the end of one direction has to arrive in its time, while the other still flows.
    this.#server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, (client) =>
      this.#accept(client),
    );
  }

  async listen(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen(this.#options.port ?? 0, "127.0.0.1", () => {
        this.#server.off("error", reject);
        resolve();
      });
    });
    const address = this.#server.address();
    if (address !== null && typeof address === "object") this.#port = address.port;
  }

  get port(): number {
    return this.#port;
  }

  /** Bytes delivered in each direction, connections that are open, and connections ever taken. */
  get counters(): Readonly<Record<Direction | "open" | "accepted", number>> {
    return {
      toServer: this.#states.toServer.bytes,
      toClient: this.#states.toClient.bytes,
      open: this.#connections.size,
      accepted: this.#accepted,
    };
  }

  get isCut(): boolean {
    return this.#refuses || this.#states.toServer.blocked || this.#states.toClient.blocked;
  }

  /** Changes what a direction (default: both) is like, for bytes that come from now on. */
  setConditions(changes: Partial<Conditions>, direction?: Direction): void {
    for (const each of this.#directions(direction)) {
      const state = this.#states[each];
      state.conditions = { ...state.conditions, ...changes };
    }
  }

  cut(cut: Cut): void {
    if (cut.mode === "reset") {
      this.#refuses = true;
      this.resetConnections();
      return;
    }
    for (const each of this.#directions(cut.direction)) this.#states[each].blocked = true;
    this.#wake();
  }

  /** Ends all cuts; delays and bandwidth stay. */
  heal(): void {
    this.#refuses = false;
    for (const state of Object.values(this.#states)) state.blocked = false;
    this.#wake();
  }

  /** Breaks the connections that are open; new ones are taken. */
  resetConnections(): void {
    for (const { client, upstream } of this.#connections) {
      client.resetAndDestroy();
      upstream?.resetAndDestroy();
    }
    this.#connections.clear();
  }

  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.resetConnections();
    await closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #directions(direction: Direction | undefined): readonly Direction[] {
    return direction === undefined ? ["toServer", "toClient"] : [direction];
  }

  #wake(): void {
    for (const connection of this.#connections) {
      if (connection.upstream === null && !this.#states.toServer.blocked) this.#open(connection);
      for (const lane of connection.lanes) lane.wake();
    }
  }

  #accept(client: Socket): void {
    this.#accepted += 1;
    client.on("error", () => undefined);
    if (this.#refuses) {
      client.resetAndDestroy();
      return;
    }
    const connection: Connection = { client, upstream: null, lanes: [] };
    this.#connections.add(connection);
    client.on("close", () => this.#forget(connection));
    if (!this.#states.toServer.blocked) this.#open(connection);
  }

  #open(connection: Connection): void {
    const { client } = connection;
    const upstream = connect({ ...this.#options.target, allowHalfOpen: true, noDelay: true });
    upstream.on("error", () => undefined);
    upstream.on("close", () => this.#forget(connection));
    connection.upstream = upstream;
    const { random } = this.#options;
    connection.lanes = [
      new Lane({ source: client, sink: upstream }, this.#states.toServer, random),
      new Lane({ source: upstream, sink: client }, this.#states.toClient, random),
    ];
  }

  #forget(connection: Connection): void {
    if (connection.client.destroyed && (connection.upstream?.destroyed ?? true))
      this.#connections.delete(connection);
  }
}

/** @returns a proxy that listens on 127.0.0.1 */
export const startFaultProxy = async (options: ProxyOptions): Promise<FaultProxy> => {
  const proxy = new FaultProxy(options);
  await proxy.listen();
  return proxy;
};
