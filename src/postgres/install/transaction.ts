import type { ClientBase } from "pg";

export interface LockPatience {
  /** How long one try waits for locks; writers queue up behind it for so long. Default 1000. */
  readonly lockTimeoutMs?: number;
  /** Default 60. */
  readonly tries?: number;
}

/** lock_not_available, deadlock_detected. */
const mayRetry = (error: unknown): boolean =>
  error instanceof Error && "code" in error && (error.code === "55P03" || error.code === "40P01");

/**
 * Runs `work` in one transaction under a lock_timeout, again from the start while it does not get its locks. Between two
 * tries it stays away for a while, so that the writers which queued up behind it get through.
 */
export const underLocks = async <T>(
  client: ClientBase,
  work: () => Promise<T>,
  { lockTimeoutMs = 1000, tries = 60 }: LockPatience = {},
): Promise<T> => {
  for (let attempt = 1; ; attempt++) {
    await client.query("BEGIN ISOLATION LEVEL READ COMMITTED");
    try {
      await client.query(`SET LOCAL lock_timeout = ${Math.trunc(lockTimeoutMs)}`);
      const result = await work();
      await client.query("COMMIT");
      return result;
    } catch (error) {
      await client.query("ROLLBACK").catch(() => undefined);
      if (!mayRetry(error) || attempt >= tries) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, Math.min(100 * attempt, 1000)));
  }
};

/** One installer at a time in a database: to be called first in a transaction. It waits as for any other lock. */
export const asOnlyInstaller = async (client: ClientBase): Promise<void> => {
  await client.query("SELECT pg_advisory_xact_lock(hashtextextended('coregent install', 0))");
};
