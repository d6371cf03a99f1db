import type { Client, QueryResultRow } from "pg";
import type { TestRegion } from "../../src/testing/index.ts";

/** How a transaction ended for the one who made it. */
export type Ending = "acknowledged" | "unknown" | "aborted";

/** What applications have to bear: clashes with each other, and servers that go away. By SQLSTATE. */
const bearable = new Set([
  "23505", // unique_violation
  "40001", // serialization_failure
  "40P01", // deadlock_detected: between two of our own writers
  "57P01", // admin_shutdown
  "57P02", // crash_shutdown
  "57P03", // cannot_connect_now
]);

const codeOf = (error: unknown): string | undefined => {
  const { code } = error as { readonly code?: unknown };
  return typeof code === "string" ? code : undefined;
};

/** A SQLSTATE has five characters; what the socket says has more, and a connection that ended says nothing. */
const isServerError = (error: unknown): boolean => /^[0-9A-Z]{5}$/.test(codeOf(error) ?? "");

export const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** A session that is opened again whenever its server was away. */
export class Session {
  readonly region: TestRegion;
  readonly #settings: readonly string[];
  readonly #problem: (text: string) => void;
  #client: Client | null = null;

  /** @param options.problem told of errors that no application should have to bear */
  constructor(
    region: TestRegion,
    options: { readonly settings?: readonly string[]; readonly problem: (text: string) => void },
  ) {
    this.region = region;
    this.#settings = options.settings ?? [];
    this.#problem = options.problem;
  }

  /** One statement; null if the server is away. */
  async read<R extends QueryResultRow>(sql: string, values: readonly unknown[] = []): Promise<R[] | null> {
    try {
      const client = await this.#connected();
      return (await client.query<R>(sql, [...values])).rows;
    } catch (error) {
      await this.#failed(error, sql);
      return null;
    }
  }

  /** @param work throws `Rollback` to give the transaction up */
  async transaction(begin: string, work: (client: Client) => Promise<void>): Promise<Ending> {
    let committing = false;
    try {
      const client = await this.#connected();
      await client.query(begin);
      await work(client);
      committing = true;
      const { command } = await client.query("COMMIT");
      if (command !== "COMMIT") this.#problem(`${this.region.name}: COMMIT answered ${command}`);
      return command === "COMMIT" ? "acknowledged" : "aborted";
    } catch (error) {
      await this.#failed(error, begin);
      // A server that goes down may have committed before it says so.
      const refused = isServerError(error) && !codeOf(error)?.startsWith("57");
      return committing && !refused ? "unknown" : "aborted";
    }
  }

  async end(): Promise<void> {
    const client = this.#client;
    this.#client = null;
    await client?.end().catch(() => undefined);
  }

  async #connected(): Promise<Client> {
    if (this.#client !== null) return this.#client;
    const client = await this.region.connect();
    this.#client = client;
    client.once("end", () => {
      if (this.#client === client) this.#client = null;
    });
    for (const setting of this.#settings) await client.query(`SET ${setting}`);
    return client;
  }

  async #rollBack(): Promise<boolean> {
    try {
      await this.#client?.query("ROLLBACK");
      return this.#client !== null;
    } catch {
      return false;
    }
  }

  async #failed(error: unknown, doing: string): Promise<void> {
    const code = codeOf(error);
    if (error instanceof Rollback || isServerError(error)) {
      if (!(error instanceof Rollback) && !bearable.has(code ?? ""))
        this.#problem(
          `${this.region.name}: a local statement failed with ${code}: ${String(error)} (${doing})`,
        );
      if (!code?.startsWith("57")) {
        if (await this.#rollBack()) return;
      }
    } else if (error instanceof TypeError || error instanceof RangeError) {
      throw error;
    }
    await this.end();
    await pause(30);
  }
}

/** The work gives its transaction up. */
export class Rollback extends Error {}
