import { randomBytes } from "node:crypto";
import { Client, escapeIdentifier, escapeLiteral, type QueryResultRow } from "pg";
import { inject } from "vitest";
import type { PostgresVersion } from "../../src/embedded/binaries.ts";
import { eventually } from "./eventually.ts";

export { eventually } from "./eventually.ts";

/** The run's shared server of this major version (superuser, database `postgres`), started at the first call. */
export const serverUrl = async (version: PostgresVersion = 18): Promise<string> => {
  const response = await fetch(`${inject("postgresServers")}/${version}`);
  const text = await response.text();
  if (!response.ok) throw new Error(text);
  return text;
};

/** For names that all databases of a server share: clusters (slots, origins), roles, databases. [a-z0-9_] */
export const uniqueName = (prefix = "t"): string => `${prefix}_${randomBytes(6).toString("hex")}`;

const session = async (url: string): Promise<Client> => {
  const client = new Client({ connectionString: url, application_name: "test" });
  client.on("error", () => undefined);
  await client.connect();
  return client;
};

const withSession = async <T>(url: string, work: (client: Client) => Promise<T>): Promise<T> => {
  const client = await session(url);
  try {
    return await work(client);
  } finally {
    await client.end();
  }
};

/** A database of its own for one test. Disposed with `await using`; what the test left behind makes it fail. */
export class TestDatabase implements AsyncDisposable {
  readonly name: string;
  /** Superuser's URL of this database. */
  readonly url: string;
  readonly #serverUrl: string;
  readonly #sessions: Client[] = [];
  #main: Promise<Client> | null = null;

  constructor(serverUrl: string, name: string) {
    this.#serverUrl = serverUrl;
    this.name = name;
    const url = new URL(serverUrl);
    url.pathname = `/${name}`;
    this.url = url.href;
  }

  /** Runs one statement in the database's standing session (several without values); gives its rows. */
  async query<R extends QueryResultRow = Record<string, unknown>>(
    sql: string,
    values?: readonly unknown[],
  ): Promise<R[]> {
    this.#main ??= this.connect();
    const result = await (await this.#main).query<R>(sql, values && [...values]);
    return result.rows;
  }

  /** A further session, ended with the database. */
  async connect(): Promise<Client> {
    const client = await session(this.url);
    this.#sessions.push(client);
    return client;
  }

  /** @throws when sessions of other makers or slots are still in use; they are ended and dropped nevertheless */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#sessions.map((client) => client.end().catch(() => undefined)));
    await withSession(this.#serverUrl, async (admin) => {
      const left = await this.#leftSessions(admin);
      await admin.query(
        `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = $1 AND active`,
        [this.name],
      );
      await eventually(async () => {
        await admin.query(
          `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1`,
          [this.name],
        );
      });
      await admin.query(`DROP DATABASE ${escapeIdentifier(this.name)} WITH (FORCE)`);
      if (left.length > 0) {
        throw new Error(`The test left sessions behind in ${this.name}:\n${left.join("\n")}`);
      }
    });
  }

  /** Sessions that are still there after a moment: a session takes some milliseconds to end after its client. */
  async #leftSessions(admin: Client): Promise<string[]> {
    let left: string[] = [];
    await eventually(
      async () => {
        const { rows } = await admin.query<{ line: string }>(
          `SELECT format('%s %s (%s): %s', backend_type, application_name, state, left(query, 200)) AS line
             FROM pg_stat_activity WHERE datname = $1 AND backend_type IN ('client backend', 'walsender')`,
          [this.name],
        );
        left = rows.map((row) => row.line);
        return left.length === 0;
      },
      { timeoutMs: 2_000 },
    ).catch(() => undefined);
    return left;
  }
}

/** A fresh, empty database on the shared server of the run. */
export const createDatabase = async (
  options: { readonly version?: PostgresVersion; readonly prefix?: string } = {},
): Promise<TestDatabase> => {
  const url = await serverUrl(options.version);
  const name = uniqueName(options.prefix);
  await withSession(url, (admin) => admin.query(`CREATE DATABASE ${escapeIdentifier(name)}`));
  return new TestDatabase(url, name);
};

/** Drops replication origins of a cluster, which belong to the server and not to a database. */
export const dropOrigins = async (cluster: string, version: PostgresVersion = 18): Promise<void> => {
  await withSession(await serverUrl(version), (admin) =>
    admin.query(
      `SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin
        WHERE starts_with(roname, ${escapeLiteral(`coregent_${cluster}_`)})`,
    ),
  );
};

/** Resolves when the session of this pid waits for another. */
export const isBlocked = (db: TestDatabase, pid: number): Promise<unknown> =>
  eventually(async () => (await db.query("SELECT FROM unnest(pg_blocking_pids($1))", [pid])).length > 0, {
    what: "The session's wait",
  });
