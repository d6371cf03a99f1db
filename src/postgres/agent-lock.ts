import type { Client } from "pg";
import { connect } from "./client.ts";
import type { Line } from "./line.ts";

/**
 * One agent of a region works at a time: whoever holds this advisory lock of the region's database. It is held by
 * a session of its own; when that session ends, however it ends, the server frees the lock and the
 * standby has it at its next try.
 */
export const agentLockKey = "hashtextextended('coregent agent', 0)";

export interface AgentLock extends AsyncDisposable {
  /** Aborted when the session that holds the lock is gone: from then on another agent may be at work. */
  readonly lost: AbortSignal;
}

/** Takes the lock, or returns null at once if another agent holds it. Rejects if the database cannot be reached. */
export const tryAgentLock = async (url: string, region: string, line?: Line): Promise<AgentLock | null> => {
  const client = await connect(url, { applicationName: `coregent agent ${region}`, line });
  try {
    const { rows } = await client.query<{ held: boolean }>(
      `SELECT pg_try_advisory_lock(${agentLockKey}) AS held`,
    );
    if (rows[0]?.held !== true) {
      await client.end();
      return null;
    }
  } catch (error) {
    await client.end().catch(() => undefined);
    throw error;
  }
  return holding(client);
};

const holding = (client: Client): AgentLock => {
  const lost = new AbortController();
  client.once("end", () => lost.abort(new Error("the session that held the agent's lock has ended")));
  return {
    lost: lost.signal,
    [Symbol.asyncDispose]: async () => {
      await client.end().catch(() => undefined);
    },
  };
};
