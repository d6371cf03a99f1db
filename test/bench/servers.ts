import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startServer, type Server } from "../../src/embedded/server.ts";
import { withClient } from "./sql.ts";

/** Every server of the bench is set so. What is not named has PostgreSQL's default. */
export const serverSettings: Readonly<Record<string, string>> = {
  shared_buffers: "512MB",
  maintenance_work_mem: "128MB",
  max_wal_size: "8GB",
  checkpoint_timeout: "30min",
  wal_sender_timeout: "5min",
  wal_receiver_timeout: "5min",
  fsync: "on",
  full_page_writes: "on",
  synchronous_commit: "on",
  max_worker_processes: "16",
  max_logical_replication_workers: "8",
  max_connections: "200",
};

const shown = [
  "server_version",
  ...Object.keys(serverSettings),
  "wal_level",
  "work_mem",
  "logical_decoding_work_mem",
  "autovacuum",
  "io_method",
  "jit",
];

/**
 * Servers by name, started when first asked for and kept: `a` to `f` for Coregent's regions, a pair for native
 * replication, so that neither reads the other's WAL.
 */
export class Servers implements AsyncDisposable {
  readonly folder: string;
  readonly #servers = new Map<string, Promise<Server>>();

  private constructor(folder: string) {
    this.folder = folder;
  }

  static async open(): Promise<Servers> {
    const folder = await mkdtemp(join(tmpdir(), "coregent-bench-"));
    // The servers' user must be able to enter it.
    await chmod(folder, 0o755);
    return new Servers(folder);
  }

  get(name: string): Promise<Server> {
    const found = this.#servers.get(name);
    if (found !== undefined) return found;
    const started = startServer({
      dataDir: join(this.folder, `${name}.data`),
      logFile: join(this.folder, `${name}.log`),
      settings: serverSettings,
      removeWithUs: true,
    });
    this.#servers.set(name, started);
    return started;
  }

  /** The settings in force, the same on all servers. @throws where they differ */
  async describe(): Promise<string> {
    const texts = await Promise.all(
      [...this.#servers.values()].map(async (server) => settingsOf(await server)),
    );
    if (new Set(texts).size > 1) throw new Error(`The servers are not set alike:\n${texts.join("\n")}`);
    return texts[0] ?? "";
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const settled = await Promise.allSettled(this.#servers.values());
    const started = settled.flatMap((each) => (each.status === "fulfilled" ? [each.value] : []));
    await Promise.all(started.map((server) => server.stop("immediate")));
    await rm(this.folder, { recursive: true, force: true });
  }
}

const settingsOf = (server: Server): Promise<string> =>
  withClient(server.url(), async (client) => {
    const { rows } = await client.query<{ name: string; value: string }>(
      `SELECT name, current_setting(name) AS value FROM unnest($1::text[]) WITH ORDINALITY AS s(name, place)
        ORDER BY place`,
      [shown],
    );
    return rows.map(({ name, value }) => `${name} = ${value}`).join(", ");
  });
