import { Client, Pool, type QueryResultRow } from "pg";
import type { PostgresVersion } from "../embedded/binaries.ts";
import type { Server } from "../embedded/server.ts";
import type { AgentProcess } from "./agent-process.ts";

export interface RegionParts {
  readonly name: string;
  readonly id: number;
  readonly server: Server;
  readonly agent: AgentProcess;
}

const database = "app";

/** One region of a test cluster: its PostgreSQL and its agent. */
export class TestRegion {
  readonly name: string;
  /** 1..1023, as in the versions that the region writes. */
  readonly id: number;
  readonly server: Server;
  readonly agent: AgentProcess;
  readonly #pool: Pool;

  constructor({ name, id, server, agent }: RegionParts) {
    this.name = name;
    this.id = id;
    this.server = server;
    this.agent = agent;
    this.#pool = new Pool({
      connectionString: this.url,
      max: 10,
      application_name: "test",
      allowExitOnIdle: true,
    });
    // A killed server ends idle sessions; the next query gets a new one.
    this.#pool.on("error", () => undefined);
  }

  /** For psql and applications: the superuser's URL of the region's database. Never cut. */
  get url(): string {
    return this.server.url(database);
  }

  get version(): PostgresVersion {
    return this.server.version;
  }

  /** Origin of the agent's HTTP address. */
  get api(): string {
    return this.agent.api;
  }

  /**
   * Runs SQL in this region and gives its rows: `sql("... $1", [value])`, or as a template, whose values are bound.
   * Values come as node-postgres reads them: bigint and numeric as text, timestamps as Date.
   */
  async sql<R extends QueryResultRow = Record<string, unknown>>(
    text: string | TemplateStringsArray,
    ...values: readonly unknown[]
  ): Promise<R[]> {
    if (typeof text !== "string") {
      const bound = text.reduce((sql, piece, i) => (i === 0 ? piece : `${sql}$${i}${piece}`), "");
      return (await this.#pool.query<R>(bound, [...values])).rows;
    }
    const parameters = values[0] as readonly unknown[] | undefined;
    return (await this.#pool.query<R>(text, parameters && [...parameters])).rows;
  }

  /** A session of its own, for transactions. The caller ends it. */
  async connect(): Promise<Client> {
    const client = new Client({ connectionString: this.url, application_name: "test" });
    client.on("error", () => undefined);
    await client.connect();
    return client;
  }

  /** Ends the sessions of `sql`. */
  async disconnect(): Promise<void> {
    await this.#pool.end().catch(() => undefined);
  }
}
