import { Client } from "pg";
import { identifier, literal } from "../../src/postgres/identifiers.ts";
import type { BenchServer } from "./bench-server.ts";

export const connect = async (url: string, applicationName = "bench"): Promise<Client> => {
  const client = new Client({ connectionString: url, application_name: applicationName });
  client.on("error", () => undefined);
  await client.connect();
  return client;
};

/** The pid of the session's server process. */
export const backendOf = async (client: Client): Promise<number> =>
  (await client.query<{ pid: number }>("SELECT pg_backend_pid() AS pid")).rows[0]?.pid ?? 0;

export const withClient = async <T>(url: string, work: (client: Client) => Promise<T>): Promise<T> => {
  const client = await connect(url);
  try {
    return await work(client);
  } finally {
    await client.end();
  }
};

/** Runs statements in a database of the server, one after the other. */
export const run = (server: BenchServer, database: string, ...statements: readonly string[]): Promise<void> =>
  withClient(server.url(database), async (client) => {
    for (const sql of statements) await client.query(sql);
  });

export const pauseMs = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** @throws after `timeoutMs` with `what` */
export const until = async (
  what: string,
  condition: () => Promise<boolean>,
  { everyMs = 5, timeoutMs = 300_000 }: { readonly everyMs?: number; readonly timeoutMs?: number } = {},
): Promise<void> => {
  const deadline = performance.now() + timeoutMs;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await pauseMs(everyMs);
  }
};

export const dropDatabase = (server: BenchServer, name: string): Promise<void> =>
  withClient(server.url(), async (client) => {
    const slots = await client.query<{ name: string }>(
      "SELECT slot_name AS name FROM pg_replication_slots WHERE database = $1",
      [name],
    );
    for (const slot of slots.rows) await dropSlot(client, slot.name);
    await client.query(`DROP DATABASE IF EXISTS ${identifier(name)} WITH (FORCE)`);
  });

/** An empty database, or a copy of another one that nobody is connected to. */
export const createDatabase = async (server: BenchServer, name: string, template?: string): Promise<void> => {
  await dropDatabase(server, name);
  const from = template === undefined ? "" : ` TEMPLATE ${identifier(template)} STRATEGY file_copy`;
  await run(server, "postgres", `CREATE DATABASE ${identifier(name)}${from}`);
};

export const renameDatabase = async (server: BenchServer, from: string, to: string): Promise<void> => {
  await dropDatabase(server, to);
  await withClient(server.url(), async (client) => {
    await client.query("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", [
      from,
    ]);
    await client.query(`ALTER DATABASE ${identifier(from)} RENAME TO ${identifier(to)}`);
  });
};

/** From under its reader, if there is one. */
export const dropSlot = async (client: Client, name: string): Promise<void> => {
  await until(`nobody reads from slot ${name}`, async () => {
    const { rows } = await client.query<{ pid: number | null }>(
      `SELECT active_pid AS pid, pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1`,
      [name],
    );
    return (rows[0]?.pid ?? null) === null;
  });
  await client.query(
    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1",
    [name],
  );
};

/** `to` stands where `from` stands, so that the same backlog can be read again. */
export const copySlot = async (client: Client, from: string, to: string): Promise<void> => {
  await dropSlot(client, to);
  await client.query(`SELECT pg_copy_logical_replication_slot(${literal(from)}, ${literal(to)})`);
};
