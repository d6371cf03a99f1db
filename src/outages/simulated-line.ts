import { Socket, type SocketConstructorOpts } from "node:net";
import process from "node:process";
import { goodLine, type LineCondition } from "../../regions/outages.ts";
import { type FaultProxy, startFaultProxy } from "../embedded/fault-proxy.ts";
import type { Line } from "../postgres/line.ts";

/** An administrator has cut this line. What depends on it behaves as if the network had. */
export class SimulatedOutage extends Error {
  readonly reaction = "retry";
  readonly code = "ECONNREFUSED";

  constructor(target: string, outage: string) {
    super(`region ${target} cannot be reached: simulated outage ${outage}`);
  }
}

export interface SimulatedLineOptions {
  /** The region that the line leads to. */
  readonly target: string;
  readonly random: () => number;
}

/**
 * A line that can be cut and made slow. While it is good, connections go straight; while it is slow, through a proxy in
 * this process that delays them. Whenever that changes, the connections that are open break, as they would if a
 * cable were pulled.
 */
export class SimulatedLine implements Line, AsyncDisposable {
  readonly #options: SimulatedLineOptions;
  readonly #open = new Set<Socket>();
  /** By the address that it leads to. */
  readonly #proxies = new Map<string, Promise<FaultProxy>>();
  readonly #onBack = new Set<() => void>();
  readonly #onAnswer = new Set<() => void>();
  #condition: LineCondition = goodLine;

  constructor(options: SimulatedLineOptions) {
    this.#options = options;
  }

  socket(options?: SocketConstructorOpts): Socket {
    const socket = new LineSocket(this, options);
    this.#open.add(socket);
    socket.once("close", () => this.#open.delete(socket));
    return socket;
  }

  onBack(back: () => void): () => void {
    this.#onBack.add(back);
    return () => this.#onBack.delete(back);
  }

  onAnswer(answered: () => void): () => void {
    this.#onAnswer.add(answered);
    return () => this.#onAnswer.delete(answered);
  }

  answered(): void {
    for (const answered of this.#onAnswer) answered();
  }

  apply(condition: LineCondition): void {
    const before = this.#condition;
    this.#condition = condition;
    if (
      before.cutBy === condition.cutBy &&
      before.oneWayMs === condition.oneWayMs &&
      before.jitterMs === condition.jitterMs
    ) {
      return;
    }
    // Whoever is not cut off comes back at once, over the line as it is now.
    const reason = new SimulatedOutage(this.#options.target, condition.cutBy ?? "began or ended");
    for (const socket of this.#open) {
      socket.destroy(reason);
    }
    for (const proxy of this.#proxies.values()) {
      void proxy.then((it) => it.close()).catch(() => undefined);
    }
    this.#proxies.clear();
    if (condition.cutBy === null) {
      for (const back of this.#onBack) back();
    }
  }

  /** Why no connection can be made; null: one can. */
  get cut(): SimulatedOutage | null {
    const { cutBy } = this.#condition;
    return cutBy === null ? null : new SimulatedOutage(this.#options.target, cutBy);
  }

  /** Where to connect for this address instead; null: there. */
  async detour(host: string, port: number): Promise<number | null> {
    const { oneWayMs, jitterMs } = this.#condition;
    if (oneWayMs === 0 && jitterMs === 0) {
      return null;
    }
    const key = `${host}:${port}`;
    const conditions = { latencyMs: oneWayMs, jitterMs: jitterMs / 2 };
    const proxy =
      this.#proxies.get(key) ??
      startFaultProxy({
        target: { host, port },
        random: this.#options.random,
        toServer: conditions,
        toClient: conditions,
      });
    this.#proxies.set(key, proxy);
    return (await proxy).port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const proxies = await Promise.allSettled(this.#proxies.values());
    this.#proxies.clear();
    for (const proxy of proxies) {
      if (proxy.status === "fulfilled") {
        await proxy.value.close();
      }
    }
  }
}

/** A socket that asks its line before it connects. Encryption, if any, is put on top by the driver, end to end. */
class LineSocket extends Socket {
  readonly #line: SimulatedLine;

  constructor(line: SimulatedLine, options?: SocketConstructorOpts) {
    super(options);
    this.#line = line;
  }

  /** As the driver calls it: a port and a host, or the path of a Unix socket, which no network can delay. */
  override connect(where: unknown, ...rest: unknown[]): this {
    const [host] = rest;
    if (this.#line.cut !== null) {
      process.nextTick(() => this.destroy(this.#line.cut ?? undefined));
    } else if (typeof where === "number" && typeof host === "string") {
      this.#line
        .detour(host, where)
        .then((port) => (port === null ? super.connect(where, host) : super.connect(port, "127.0.0.1")))
        .catch((error: unknown) => this.destroy(error instanceof Error ? error : undefined));
    } else {
      super.connect(where as never, ...(rest as never[]));
    }
    return this;
  }
}
