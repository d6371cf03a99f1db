import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { mkdir, readFile, rm } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { findBinaries, type Binaries, type PostgresVersion } from "./binaries.ts";
import { claim, prepareDataFolder, readPidFile, unclaim, writeSettings } from "./data-folder.ts";
import { freePort } from "./ports.ts";
import {
  commandLine,
  endWithUs,
  isAlive,
  isWorkedIn,
  killTree,
  signal,
  waitUntil,
  type Guard,
} from "./processes.ts";
import { serverUser, type ServerUser } from "./server-user.ts";

export interface ServerOptions {
  /** Made from a template unless it holds data. As root see {@link Server.place}. */
  readonly dataDir: string;
  /** Major version; default 18. */
  readonly version?: PostgresVersion;
  /** Default: one that is free, kept over restarts. */
  readonly port?: number;
  /** Survive a power failure (of the machine; a killed server loses nothing either way). Default true. */
  readonly fsync?: boolean;
  /** Configuration settings over the defaults here. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Default: `<dataDir>.log`. */
  readonly logFile?: string;
  readonly startTimeoutMs?: number;
  /** Remove the data when this process ends without having stopped the server, as a test run that is killed. */
  readonly removeWithUs?: boolean;
}

const defaults = (version: PostgresVersion): Record<string, string> => ({
  listen_addresses: "127.0.0.1",
  unix_socket_directories: "",
  wal_level: "logical",
  max_wal_senders: "64",
  max_replication_slots: "64",
  max_connections: "100",
  max_logical_replication_workers: "0",
  shared_buffers: "64MB",
  // Both keep a killed server from leaving shared memory behind that nobody removes.
  dynamic_shared_memory_type: "mmap",
  huge_pages: "off",
  jit: "off",
  TimeZone: "UTC",
  log_timezone: "UTC",
  log_line_prefix: "%m [%p] %q%a ",
  // From 18 on, replication origins have a limit of their own, and reading needs no worker processes here.
  ...(version >= 18 ? { max_active_replication_origins: "64", io_method: "sync" } : {}),
});

/** The last lines of a file, for error messages. */
export const logTail = async (file: string, lines = 30): Promise<string> => {
  const text = await readFile(file, "utf8").catch(() => "");
  return text.trimEnd().split("\n").slice(-lines).join("\n");
};

/** Why a start failed: `port` may be tried again with another one. */
class StartError extends Error {
  readonly reason: "port" | "busy" | "other";
  constructor(message: string, reason: "port" | "busy" | "other") {
    super(message);
    this.reason = reason;
  }
}

const reasonOf = (log: string): StartError["reason"] => {
  if (/Address already in use|could not bind/i.test(log)) return "port";
  return /lock file .* already exists|shared memory block .* is still in use/i.test(log) ? "busy" : "other";
};

interface Place {
  readonly folder: string;
  readonly binaries: Binaries;
  readonly user: ServerUser;
}

/**
 * One embedded PostgreSQL: superuser `postgres` without a password on 127.0.0.1. It is ended when this process
 * ends, however that comes about.
 */
export class Server implements AsyncDisposable {
  readonly version: PostgresVersion;
  readonly logFile: string;
  readonly #options: ServerOptions;
  readonly #place: Place;
  #settings: Record<string, string>;
  #port: number;
  #child: ChildProcess | null = null;
  #guard: Guard | null = null;

  constructor(options: ServerOptions, place: Place) {
    this.version = options.version ?? 18;
    this.logFile = resolve(options.logFile ?? `${options.dataDir}.log`);
    this.#options = options;
    this.#place = place;
    this.#port = options.port ?? 0;
    this.#settings = {
      ...defaults(this.version),
      ...(options.fsync === false ? { fsync: "off", full_page_writes: "off" } : {}),
      ...options.settings,
    };
  }

  get port(): number {
    return this.#port;
  }

  /** Of the postmaster; null while it does not run. */
  get pid(): number | null {
    return this.running ? (this.#child?.pid ?? null) : null;
  }

  get running(): boolean {
    return this.#child !== null && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** The data folder's true place: it may lie elsewhere than asked for when root's server cannot reach that. */
  get place(): string {
    return this.#place.folder;
  }

  url(database = "postgres"): string {
    return `postgres://postgres@127.0.0.1:${this.#port}/${encodeURIComponent(database)}`;
  }

  /** Starts it again after stop or kill, on the same port; errors hold the end of the server's log. */
  async start(): Promise<void> {
    if (this.running) return;
    await claim(this.#place.folder, this.#place.user);
    await this.#stopLeftover();
    const deadline = performance.now() + 15_000;
    for (let pause = 50; ; pause = Math.min(pause * 2, 500)) {
      const chosen = this.#port === 0;
      if (chosen) this.#port = await freePort();
      try {
        await this.#launch();
        return;
      } catch (error) {
        if (!(error instanceof StartError) || error.reason === "other" || performance.now() > deadline)
          throw error;
        if (chosen) this.#port = 0;
        await new Promise((done) => setTimeout(done, pause));
      }
    }
  }

  /**
   * `fast` ends sessions and writes a checkpoint; `immediate` leaves that to the recovery at the next start.
   * @returns whether it ended so in 30 s, without being forced to
   */
  async stop(mode: "fast" | "immediate" = "fast"): Promise<boolean> {
    const child = this.#child;
    let asAsked = true;
    if (this.running && child?.pid !== undefined) {
      child.ref();
      signal(child.pid, mode === "fast" ? "SIGINT" : "SIGQUIT");
      asAsked = await this.#ended(30_000);
      if (!asAsked && mode === "fast") signal(child.pid, "SIGQUIT");
      if (!asAsked && !(await this.#ended(10_000))) await this.kill();
    }
    this.#forget();
    await unclaim(this.#place.folder);
    return asAsked;
  }

  /** SIGKILL to all its processes at once, as by a power failure. */
  async kill(): Promise<void> {
    const pid = this.pid;
    if (pid === null) return;
    this.#child?.ref();
    const pids = killTree(pid);
    if (!(await waitUntil(() => !this.running && !pids.some(isAlive), 10_000))) {
      throw new Error(`PostgreSQL ${pid} did not end by SIGKILL`);
    }
    this.#forget();
  }

  async restart(): Promise<void> {
    if (this.running) await this.stop();
    await this.start();
  }

  /** Changes settings that need no restart, in existing sessions too. A null takes one out. */
  async configure(changes: Readonly<Record<string, string | null>>): Promise<void> {
    const merged: Record<string, string | null> = { ...this.#settings, ...changes };
    this.#settings = Object.fromEntries(
      Object.entries(merged).filter((entry): entry is [string, string] => entry[1] !== null),
    );
    await writeSettings(this.#place.folder, this.#settings, this.#place.user);
    const pid = this.pid;
    if (pid !== null) signal(pid, "SIGHUP");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  async #launch(): Promise<void> {
    const { folder, binaries, user } = this.#place;
    await writeSettings(folder, this.#settings, user);
    await mkdir(dirname(this.logFile), { recursive: true });
    const before = (await readFile(this.logFile, "utf8").catch(() => "")).length;
    const log = openSync(this.logFile, "a", 0o600);
    const child = spawn(binaries.postgres, ["-D", folder, "-p", String(this.#port)], {
      ...user.ids,
      cwd: "/",
      // Its own session: Ctrl-C in a terminal reaches us alone, and we stop things in order.
      detached: true,
      stdio: ["ignore", log, log],
      env: { LC_ALL: "C", TZ: "UTC", PATH: "/usr/bin:/bin" },
    });
    closeSync(log);
    this.#child = child;
    const failures: Error[] = [];
    child.on("error", (error) => failures.push(error));
    child.unref();
    if (child.pid !== undefined) {
      this.#guard = endWithUs(child.pid, {
        signal: "QUIT",
        remove: this.#options.removeWithUs ? [folder, resolve(this.#options.dataDir)] : [],
      });
    }

    const timeoutMs = this.#options.startTimeoutMs ?? 60_000;
    const deadline = performance.now() + timeoutMs;
    while (failures.length === 0 && this.running) {
      const state = await readPidFile(folder);
      if (state?.pid === child.pid && state?.ready) return;
      if (performance.now() > deadline) {
        await this.kill();
        const tail = await logTail(this.logFile);
        throw new StartError(`PostgreSQL was not ready in ${timeoutMs} ms, its log says:\n${tail}`, "other");
      }
      await new Promise((done) => setTimeout(done, 10));
    }
    this.#forget();
    const said = (await readFile(this.logFile, "utf8").catch(() => "")).slice(before);
    const cause = failures.map((failure) => ` (${failure.message})`).join("");
    throw new StartError(
      `PostgreSQL ${this.version} did not start in ${folder}${cause}; ${this.logFile} says:\n${said}`,
      reasonOf(said),
    );
  }

  /** A server that an owner which was killed left in this folder. */
  async #stopLeftover(): Promise<void> {
    const { folder } = this.#place;
    const pid = (await readPidFile(folder))?.pid;
    const isOurs = (): boolean => {
      const command = pid === undefined ? null : commandLine(pid);
      return command !== null && /postgres/.test(command) && command.includes(folder);
    };
    if (pid === undefined) return;
    if (!isOurs()) {
      // Its processes may outlive a killed postmaster for a moment. After that, a pid that the system has given to
      // somebody else would keep PostgreSQL from starting.
      await waitUntil(() => !isWorkedIn(folder), 10_000);
      if (isAlive(pid) && !isWorkedIn(folder)) await rm(join(folder, "postmaster.pid"), { force: true });
      return;
    }
    signal(pid, "SIGINT");
    if (await waitUntil(() => !isOurs(), 5_000)) return;
    signal(pid, "SIGQUIT");
    if (await waitUntil(() => !isOurs(), 5_000)) return;
    killTree(pid);
    await waitUntil(() => !isOurs(), 5_000);
  }

  #ended(timeoutMs: number): Promise<boolean> {
    return waitUntil(() => !this.running, timeoutMs);
  }

  #forget(): void {
    this.#guard?.release();
    this.#guard = null;
    this.#child = null;
  }
}

/** @returns a server that takes connections */
export const startServer = async (options: ServerOptions): Promise<Server> => {
  const version = options.version ?? 18;
  const user = serverUser();
  const binaries = await findBinaries(version, user);
  const folder = await prepareDataFolder({ dataDir: options.dataDir, version, binaries, user });
  const server = new Server(options, { folder, binaries, user });
  await server.start();
  return server;
};
