import type { Logger } from "pino";
import { type Clock, createBackoff, type RandomSource } from "../clock.ts";
import { type AdminRequest, recordRequests } from "./audit.ts";
import { connect } from "./client.ts";
import type { Line } from "./line.ts";
import { reactionTo } from "./sqlstate.ts";

export interface AuditTrailOptions {
  readonly url: string;
  readonly line: Line | undefined;
  readonly region: string;
  readonly clock: Clock;
  readonly random: RandomSource;
  readonly logger: Logger;
  /** That wait for the database; further ones are only in the log. */
  readonly maxWaiting?: number;
}

const retry = { firstMs: 500, maxMs: 15_000 };
const maxBatch = 100;
const connectTimeoutMs = 5_000;
/** For what still waits when the agent stops. */
const lastTryMs = 2_000;
/** Connecting included: a line may swallow the answer. */
const tryMs = 15_000;

/**
 * Brings what administrators did over HTTP into the region's table coregent.audit. They may just have cut the region off from
 * its database, so nobody waits for it: what
 * cannot be written is kept for later, and what is not written in the end is said in the log.
 */
export class AuditTrail {
  readonly #options: AuditTrailOptions;
  readonly #waiting: AdminRequest[] = [];
  #wake = new AbortController();

  constructor(options: AuditTrailOptions) {
    this.#options = options;
  }

  add(request: AdminRequest): void {
    const { maxWaiting = 1_000 } = this.#options;
    if (this.#waiting.length >= maxWaiting) {
      this.#notKept([request], `${maxWaiting} others wait for the database`);
      return;
    }
    this.#waiting.push(request);
    this.#wake.abort();
  }

  /** Until the signal is aborted, and a last try after that. Never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, random, logger, line } = this.#options;
    const backoff = createBackoff(retry, random);
    const back = line?.onBack?.(() => this.#wake.abort());
    while (!signal.aborted) {
      this.#wake = new AbortController();
      const failure = await this.#write(AbortSignal.any([signal, AbortSignal.timeout(tryMs)]));
      if (failure === null) {
        backoff.reset();
      } else if (backoff.failures === 0 && !signal.aborted) {
        logger.warn({ err: failure }, "administrators' requests wait to be written to coregent.audit");
      }
      // With nothing to do, until there is.
      const waitMs = failure === null ? 3_600_000 : backoff.nextMs();
      await clock.sleep(waitMs, AbortSignal.any([signal, this.#wake.signal])).catch(() => undefined);
    }
    back?.();
    const failure = await this.#write(AbortSignal.timeout(lastTryMs));
    this.#notKept(this.#waiting.splice(0), failure?.message ?? "");
  }

  /** All that waits. @returns why not, or null */
  async #write(signal: AbortSignal): Promise<Error | null> {
    if (this.#waiting.length === 0) return null;
    const { url, line, region } = this.#options;
    let giveUp = (): void => undefined;
    try {
      const client = await connect(url, {
        applicationName: `coregent audit ${region}`,
        settings: { statement_timeout: "5s" },
        connectTimeoutMs,
        onSocket: (socket) => {
          giveUp = () => void socket.destroy();
          signal.addEventListener("abort", giveUp, { once: true });
        },
        line,
        signal,
      });
      try {
        while (this.#waiting.length > 0) {
          const batch = this.#waiting.slice(0, maxBatch);
          await recordRequests(client, batch);
          this.#waiting.splice(0, batch.length);
        }
      } finally {
        await client.end().catch(() => undefined);
      }
      return null;
    } catch (error) {
      const failure = error instanceof Error ? error : new Error(String(error));
      if (reactionTo(error, "session") !== "stop") return failure;
      this.#notKept(this.#waiting.splice(0), failure.message);
      return null;
    } finally {
      signal.removeEventListener("abort", giveUp);
    }
  }

  #notKept(requests: readonly AdminRequest[], reason: string): void {
    for (const audit of requests) {
      this.#options.logger.error({ audit, reason }, "an administrator's request is not in coregent.audit");
    }
  }
}
