import type { Buffer } from "node:buffer";
import type { Socket } from "node:net";
import type { Client } from "pg";
import { LogicalReplicationService } from "pg-logical-replication";
import type { Clock } from "../clock.ts";
import { pinnedSettings } from "../postgres/client.ts";
import { readBytes, takeCopyData } from "../postgres/copy-data.ts";
import { identifier, literal } from "../postgres/identifiers.ts";
import type { Line } from "../postgres/line.ts";
import { withTls } from "../postgres/tls.ts";
import { postgresEpoch } from "./commit-point.ts";
import { formatLsn } from "./lsn.ts";
import { memorySql, pgoutputOptions, type PgoutputOptions } from "./pgoutput.ts";
import type { WalsenderState } from "./slot.ts";
import { judgeSilence, statusIntervalMs } from "./stream-rules.ts";

export interface StreamOptions extends PgoutputOptions {
  readonly url: string;
  readonly line: Line;
  readonly applicationName: string;
  readonly slot: string;
  /** Transactions that commit before are not sent. At least what the slot has confirmed. */
  readonly from: bigint;
  readonly connectTimeoutMs: number;
  readonly silenceTimeoutMs: number;
  readonly clock: Clock;
  /** What may be confirmed to the source; above 0. Asked whenever a status is due. */
  confirmed(): bigint;
  /** True while nobody waits for what comes next, so that it may come a moment later and in larger reads. */
  unhurried(): boolean;
  /** What the source's walsender is doing, asked on another session. A rejection or no answer: unreachable. */
  inspectWalsender(pid: number): Promise<WalsenderState>;
}

export interface StreamSink {
  /**
   * A message of pgoutput, from byte `start` to `end` of the buffer, which is another's after the call. An error ends the
   * stream.
   */
  message(bytes: Buffer, start: number, end: number): void;
  /** The source has sent everything before `lsn`. `time`: its clock, microseconds since 1970. */
  keepalive(lsn: bigint, time: bigint): void;
  /** The stream has ended, for whatever reason. Called once, after which nothing else is. */
  ended(error: Error): void;
}

/** The source has ended the stream, or does not answer any more. */
export class StreamLost extends Error {
  readonly reaction = "retry";
}

const asError = (value: unknown): Error => (value instanceof Error ? value : new StreamLost(String(value)));

const restMs = 1;

/** XLogData: w, LSN of the message, end of WAL, time. Then the message. */
const xlogData = 0x77;
const messageStart = 25;
/** Keepalive: k, position, time, whether it is to be answered. */
const keepalive = 0x6b;

type Plugin = Parameters<LogicalReplicationService["subscribe"]>[0];

/**
 * One replication connection, for one attempt: it is opened, streams, and ends once. pg-logical-replication connects,
 * acknowledges and ends; each message is taken from the driver itself, since on the way through the library it
 * would become an event, a view and a position in text. Whatever fails ends in `sink.ended` and in nothing else.
 */
export class ReplicationStream implements AsyncDisposable {
  readonly #options: StreamOptions;
  readonly #sink: StreamSink;
  readonly #service: LogicalReplicationService;
  readonly #end = new AbortController();
  readonly #started = Promise.withResolvers<void>();
  #socket: Socket | null = null;
  #client: Client | null = null;
  #statusEveryMs = 10_000;
  #received = 0;
  #paused = false;
  #resting = false;
  #disposed: Promise<void> | null = null;

  private constructor(options: StreamOptions, sink: StreamSink) {
    this.#options = options;
    this.#sink = sink;
    // It may be rejected when nobody waits for it any more.
    this.#started.promise.catch(() => undefined);
    this.#service = new LogicalReplicationService(
      {
        connectionString: withTls(options.url),
        application_name: options.applicationName.slice(0, 63),
        connectionTimeoutMillis: options.connectTimeoutMs,
        keepAlive: true,
        keepAliveInitialDelayMillis: 10_000,
        // Our own socket, so that it can be destroyed at any time, also before there is a session.
        stream: () => (this.#socket = options.line.socket()),
      },
      { acknowledge: { auto: false, timeoutSeconds: 0 } },
    );
  }

  /**
   * Connects and starts to stream. Messages may come before the promise resolves.
   * @throws what made it fail; `sink.ended` is called as well
   */
  static async open(
    options: StreamOptions,
    sink: StreamSink,
    signal: AbortSignal,
  ): Promise<ReplicationStream> {
    signal.throwIfAborted();
    if (options.confirmed() <= 0n) {
      throw new Error("a stream starts with a confirmed position: the slot's");
    }
    const stream = new ReplicationStream(options, sink);
    const abort = (): void => stream.#fail(asError(signal.reason));
    signal.addEventListener("abort", abort, { once: true });
    stream.#end.signal.addEventListener("abort", () => signal.removeEventListener("abort", abort));
    try {
      await stream.#start();
      return stream;
    } catch (error) {
      await stream[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Aborted, with the error as its reason, when the stream has ended. */
  get ended(): AbortSignal {
    return this.#end.signal;
  }

  pause(): void {
    this.#paused = true;
    this.#transport?.pause();
  }

  resume(): void {
    this.#paused = false;
    this.hurry();
  }

  /** Somebody waits for what comes next. */
  hurry(): void {
    this.#resting = false;
    if (!this.#paused) {
      this.#transport?.resume();
    }
  }

  /** Tells the source now what is confirmed; it is told regularly besides. */
  sendStatus(ping = false): void {
    // The library sends the position after the one it is given.
    const position = formatLsn(this.#options.confirmed() - 1n);
    this.#service.acknowledge(position, ping).catch((error: unknown) => this.#fail(asError(error)));
  }

  /** Ends the stream and waits until its connection is closed. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#fail(new StreamLost("the stream was closed"));
    this.#disposed ??= this.#close();
    await this.#disposed;
  }

  /** The socket, or what encrypts it. */
  get #transport(): { pause(): unknown; resume(): unknown; destroy(): unknown } | null {
    return this.#client?.connection.stream ?? this.#socket;
  }

  async #start(): Promise<void> {
    const service = this.#service;
    service.on("error", (error) => this.#fail(error));
    service.on("start", () => this.#started.resolve());
    service.subscribe(this.#plugin(), this.#options.slot, formatLsn(this.#options.from)).then(
      () => this.#fail(new StreamLost("the source has ended the stream")),
      (error: unknown) => this.#fail(asError(error)),
    );
    const { connectTimeoutMs } = this.#options;
    const started = this.#started.promise.then(() => "started" as const);
    if ((await this.#within(connectTimeoutMs, started)) === null) {
      throw new StreamLost(`no stream within ${connectTimeoutMs} ms`);
    }
    this.sendStatus();
    void this.#report();
    void this.#watch();
  }

  #plugin(): Plugin {
    const plugin = {
      name: "pgoutput",
      options: {},
      start: (client: Client): Promise<void> => this.#stream(client),
      parse: (): undefined => undefined,
    };
    return plugin;
  }

  /** Until the stream ends. */
  async #stream(client: Client): Promise<void> {
    this.#client = client;
    const { connection } = client;
    if (this.#paused) {
      connection.stream.pause();
    }
    await client.query(pinSql);
    await client.query(memorySql(this.#options));
    const { rows } = await client.query<{ ms: string }>(timeoutSql);
    this.#statusEveryMs = statusIntervalMs(Number(rows[0]?.ms ?? 0));
    takeCopyData(connection, (bytes, start, end) => this.#take(bytes, start, end));
    connection.stream.on("data", (bytes) => this.#rest(bytes.length));
    await client.query(startSql(this.#options));
  }

  /** An error thrown to the driver would end the process. */
  #take(bytes: Buffer, start: number, end: number): void {
    if (this.#end.signal.aborted) {
      return;
    }
    this.#received += 1;
    try {
      if (bytes[start] === xlogData) {
        this.#sink.message(bytes, start + messageStart, end);
      } else if (bytes[start] === keepalive) {
        this.#sink.keepalive(
          bytes.readBigUInt64BE(start + 1),
          bytes.readBigInt64BE(start + 9) + postgresEpoch,
        );
        if (bytes[start + 17] === 1) {
          this.sendStatus();
        }
      } else {
        throw new StreamLost(`unknown kind of message ${bytes[start]} in the stream`);
      }
    } catch (error) {
      this.#fail(asError(error));
    }
  }

  /**
   * The source sends every message by itself, and whoever reads at once wakes up for each. Not reading for a moment
   * makes it cheaper on both sides: the messages wait in the sockets and are read together. After a full read, just as long
   * as others need to be heard: Node reads a socket that is never empty 32 times in a row, and the target's answers wait.
   */
  #rest(bytes: number): void {
    if (this.#resting || !this.#options.unhurried()) {
      return;
    }
    this.#resting = true;
    this.#transport?.pause();
    if (bytes >= readBytes) {
      setImmediate(() => this.hurry());
      return;
    }
    const { clock } = this.#options;
    clock.sleep(restMs, this.#end.signal).then(
      () => this.hurry(),
      () => undefined,
    );
  }

  /** The regular status, also in the middle of a long transaction. */
  async #report(): Promise<void> {
    await this.#every(this.#statusEveryMs, async () => this.sendStatus());
  }

  /** Notices a connection that is dead without having been closed. */
  async #watch(): Promise<void> {
    const { silenceTimeoutMs } = this.#options;
    let before = -1;
    let quarters = 0;
    await this.#every(silenceTimeoutMs / 4, async () => {
      const heard = this.#received !== before || this.#paused;
      before = this.#received;
      quarters = heard ? 0 : quarters + 1;
      const verdict = judgeSilence(quarters);
      if (verdict === "ping") {
        this.sendStatus(true);
      } else if (verdict === "probe") {
        const state = await this.#probe();
        if (state !== "busy" && this.#received === before) {
          this.#fail(new StreamLost(`silent for ${silenceTimeoutMs} ms; its walsender is ${state}`));
        }
      }
    });
  }

  async #every(ms: number, work: () => Promise<void>): Promise<void> {
    try {
      for (;;) {
        await this.#options.clock.sleep(ms, this.#end.signal);
        await work();
      }
    } catch (error) {
      this.#fail(asError(error));
    }
  }

  async #probe(): Promise<WalsenderState | "unreachable"> {
    const pid = (this.#client as { processID?: number } | null)?.processID ?? 0;
    const answer = this.#options.inspectWalsender(pid).catch(() => "unreachable" as const);
    return (await this.#within(this.#options.connectTimeoutMs, answer)) ?? "unreachable";
  }

  /** Null when it takes longer. */
  async #within<T>(ms: number, work: Promise<T>): Promise<T | null> {
    const timer = new AbortController();
    try {
      const timeout = this.#options.clock.sleep(ms, timer.signal).then(
        () => null,
        () => null,
      );
      return await Promise.race([work, timeout]);
    } finally {
      timer.abort();
    }
  }

  /** The only place where a stream ends. The first reason counts. */
  #fail(error: Error): void {
    if (this.#end.signal.aborted) {
      return;
    }
    this.#end.abort(error);
    this.#started.reject(error);
    this.#transport?.destroy();
    this.#socket?.destroy();
    this.#sink.ended(error);
  }

  /** What comes late from the driver goes nowhere: the library removes its listeners, and an `error` needs one. */
  async #close(): Promise<void> {
    await this.#within(
      1_000,
      this.#service.stop().catch(() => undefined),
    );
    this.#client?.on("error", () => undefined);
    this.#client?.connection.on("error", () => undefined);
    this.#service.removeAllListeners();
    this.#service.on("error", () => undefined);
  }
}

const pinSql = `SELECT set_config(s.name, s.value, false)
  FROM (VALUES ${Object.entries(pinnedSettings)
    .map(([name, value]) => `(${literal(name)}, ${literal(value)})`)
    .join(", ")}) AS s(name, value)
  JOIN pg_catalog.pg_settings p ON lower(p.name) = lower(s.name)`;

const timeoutSql = "SELECT setting AS ms FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'";

const startSql = (options: StreamOptions): string => {
  const list = Object.entries(pgoutputOptions(options)).map(([name, value]) => `${name} ${literal(value)}`);
  return `START_REPLICATION SLOT ${identifier(options.slot)} LOGICAL ${formatLsn(options.from)} (${list.join(", ")})`;
};
