import type { AddressInfo } from "node:net";
import { Pool } from "pg";
import { Registry } from "prom-client";
import { allowAll, type ApiBounds, type ApiParts, usualBounds } from "../../src/http/api-parts.ts";
import { type AgentServerOptions, createAgentServer, type ServerBounds } from "../../src/http/server.ts";
import { pinnedSettings } from "../../src/postgres/client.ts";
import type { Problem } from "../../src/problems.ts";
import { CatalogCache, readCatalog } from "../../src/write/catalog.ts";
import { highestVersion, type Operation } from "../../src/write/operation.ts";
import { runOperations } from "../../src/write/run-operations.ts";
import type { SessionToken } from "../../src/write/session-token.ts";
import type { Writer, WriteRequest } from "../../src/write/writer.ts";
import { install, owned } from "../postgres/install/installed.ts";
import { createDatabase, type TestDatabase } from "../support/database.ts";
import { agentStatus } from "./agent-fixture.ts";

type OneMaster = Pick<Writer, "write" | "read"> & { readonly requests: WriteRequest[] };

/** A writer that has one master and no guarantees beyond its transactions: what the API is tested with. */
const oneMaster = (pool: Pool, catalog: CatalogCache): OneMaster => {
  const transaction = async (operations: readonly Operation[]) => {
    const client = await pool.connect();
    try {
      await client.query("BEGIN");
      const results = await runOperations(client, await catalog.get(), operations);
      await client.query("COMMIT");
      return results;
    } catch (error) {
      await client.query("ROLLBACK");
      throw error;
    } finally {
      client.release();
    }
  };
  const attempt = (operations: readonly Operation[]) =>
    transaction(operations).catch((error: unknown) => {
      if (!catalog.noticed(error)) throw error;
      return transaction(operations);
    });
  const seen = (version: bigint): SessionToken => ({ positions: [], version });
  const requests: WriteRequest[] = [];
  return {
    requests,
    write: async (request) => {
      requests.push(request);
      const results = await attempt(request.operations);
      const version = highestVersion(results);
      const { durable } = request;
      return {
        region: "moldova",
        takeover: false,
        results,
        version,
        session: seen(version),
        durableRegions: durable?.regions ?? null,
        replayed: false,
        onceOnly: request.idempotency === null ? null : true,
      };
    },
    read: async ({ operations }) => {
      const results = await attempt(operations);
      return { region: "moldova", results, session: seen(highestVersion(results)) };
    },
  };
};

export interface ApiOptions {
  readonly owners?: Readonly<Record<string, string>>;
  readonly bounds?: Partial<ApiBounds>;
  readonly serverBounds?: Partial<ServerBounds>;
  readonly parts?: Partial<ApiParts>;
  readonly server?: Partial<AgentServerOptions>;
}

/** The real server on loopback, before a real master. */
export class Api implements AsyncDisposable {
  readonly db: TestDatabase;
  readonly url: string;
  readonly port: number;
  readonly writer: OneMaster;
  /** What was answered as ours, which no request may bring about. */
  readonly internal: Problem[];
  readonly #close: () => Promise<void>;

  constructor(parts: {
    db: TestDatabase;
    port: number;
    writer: OneMaster;
    internal: Problem[];
    close: () => Promise<void>;
  }) {
    this.db = parts.db;
    this.port = parts.port;
    this.url = `http://127.0.0.1:${parts.port}`;
    this.writer = parts.writer;
    this.internal = parts.internal;
    this.#close = parts.close;
  }

  /** Asks with a JSON body; a string is sent as it is. */
  async ask(
    method: string,
    path: string,
    body?: unknown,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<Answer> {
    const response = await fetch(this.url + path, {
      method,
      headers: { ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
      ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
    });
    const text = await response.text();
    return {
      status: response.status,
      headers: response.headers,
      text,
      json: text === "" ? undefined : JSON.parse(text),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#close();
    await this.db[Symbol.asyncDispose]();
  }
}

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  readonly json: unknown;
}

export const createApi = async (schema: string, options: ApiOptions = {}): Promise<Api> => {
  const db = await createDatabase({ prefix: "api" });
  await db.query(schema);
  const tables = Object.entries(options.owners ?? {}).map(([table, owner]) => owned(table, owner));
  await install(db, { tables });
  const settings = { ...pinnedSettings, search_path: '"$user",public' };
  const pool = new Pool({
    connectionString: db.url,
    max: 10,
    options: Object.entries(settings)
      .filter(([name]) => name !== "transaction_timeout")
      .map(([name, value]) => `-c ${name}=${value.replaceAll(" ", "\\ ")}`)
      .join(" "),
  });
  const catalog = new CatalogCache({ region: "moldova", read: () => readCatalog(pool, "moldova") });
  const writer = oneMaster(pool, catalog);
  const internal: Problem[] = [];
  const server = createAgentServer({
    status: agentStatus(),
    registry: new Registry(),
    now: Date.now,
    pingDatabase: () => Promise.resolve(),
    api: {
      cluster: "weightbook",
      region: "moldova",
      writer,
      catalog,
      authorize: allowAll,
      now: Date.now,
      bounds: { ...usualBounds, ...options.bounds },
      ...options.parts,
    },
    onInternal: (problem) => internal.push(problem),
    ...options.server,
    ...(options.serverBounds === undefined ? {} : { bounds: options.serverBounds }),
  });
  await server.listen({ host: "127.0.0.1", port: 0 });
  const { port } = server.server.address() as AddressInfo;
  const close = async (): Promise<void> => {
    await server.close();
    await pool.end();
  };
  return new Api({ db, port, writer, internal, close });
};
