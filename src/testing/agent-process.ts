import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { endWithUs, signal, waitUntil, type Guard } from "../embedded/processes.ts";
import { logTail } from "../embedded/server.ts";
import { coregentCommand } from "./program.ts";

export interface AgentOptions {
  readonly region: string;
  readonly configFile: string;
  readonly logFile: string;
  /** Origin of the agent's HTTP address. */
  readonly api: string;
  readonly cwd: string;
  readonly env: Readonly<Record<string, string>>;
}

/** One `coregent agent`, a process of its own, which is ended when this process ends. */
export class AgentProcess {
  readonly region: string;
  readonly logFile: string;
  readonly api: string;
  readonly #options: AgentOptions;
  #child: ChildProcess | null = null;
  #guard: Guard | null = null;
  #wanted = false;

  constructor(options: AgentOptions) {
    this.#options = options;
    this.region = options.region;
    this.logFile = options.logFile;
    this.api = options.api;
  }

  get pid(): number | null {
    return this.running ? (this.#child?.pid ?? null) : null;
  }

  get running(): boolean {
    return this.#child !== null && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** How it ended though nobody asked it to; null if it did not. */
  get crash(): string | null {
    if (!this.#wanted || this.running || this.#child === null) return null;
    return `ended with ${this.#child.signalCode ?? `code ${this.#child.exitCode}`}`;
  }

  /** Starts it without waiting until it is ready. */
  spawn(): void {
    if (this.running) return;
    const { region, configFile, cwd, env } = this.#options;
    const log = openSync(this.logFile, "a");
    const command = coregentCommand(["agent", "--region", region, "--config", configFile]);
    const child = spawn(command.file, command.args, {
      cwd,
      detached: true,
      stdio: ["ignore", log, log],
      env: { ...command.env, ...env },
    });
    closeSync(log);
    child.on("error", () => undefined);
    child.unref();
    this.#child = child;
    this.#wanted = true;
    if (child.pid !== undefined) this.#guard = endWithUs(child.pid, { signal: "KILL" });
  }

  /** @throws with the end of its log when it ends, or is not ready (`/readyz` answers 200) in time */
  async ready(timeoutMs = 30_000): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    let said = "nothing";
    while (this.running) {
      try {
        const response = await fetch(`${this.api}/readyz`, { signal: AbortSignal.timeout(2_000) });
        if (response.ok) return;
        said = await response.text();
      } catch (error) {
        said = String((error as Error).cause ?? error);
      }
      if (performance.now() > deadline) {
        throw new Error(
          `The agent of region ${this.region} was not ready in ${timeoutMs} ms: ${said}\n${await this.tail()}`,
        );
      }
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
    throw new Error(
      `The agent of region ${this.region} ${this.crash ?? "does not run"}\n${await this.tail()}`,
    );
  }

  async start(): Promise<void> {
    this.spawn();
    await this.ready();
  }

  /** SIGTERM, and SIGKILL when it has not ended in time. @returns whether it ended by itself */
  async stop(timeoutMs = 15_000): Promise<boolean> {
    this.#wanted = false;
    const pid = this.pid;
    if (pid === null) return true;
    signal(pid, "SIGCONT");
    signal(pid, "SIGTERM");
    const ended = await waitUntil(() => !this.running, timeoutMs);
    if (!ended) await this.kill();
    this.#guard?.release();
    return ended;
  }

  async kill(): Promise<void> {
    this.#wanted = false;
    const pid = this.pid;
    if (pid === null) return;
    signal(pid, "SIGKILL");
    if (!(await waitUntil(() => !this.running, 10_000)))
      throw new Error(`The agent ${pid} did not end by SIGKILL`);
    this.#guard?.release();
  }

  pause(): void {
    if (this.pid !== null) signal(this.pid, "SIGSTOP");
  }

  resume(): void {
    if (this.pid !== null) signal(this.pid, "SIGCONT");
  }

  async tail(lines = 30): Promise<string> {
    return `${this.logFile} ends with:\n${await logTail(this.logFile, lines)}`;
  }
}
