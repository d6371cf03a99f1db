import type { Buffer } from "node:buffer";
import { nextTick } from "node:process";
import { Query, type Client, type Connection } from "pg";
import { corkTurn, uncorkTurn } from "../corked.ts";
import { connect, mergeSettings } from "../postgres/client.ts";
import { copyDataHeader } from "../postgres/copy-data.ts";
import { type Answer, Flight, type Parameter, Statement } from "../postgres/flight.ts";
import type { Line } from "../postgres/line.ts";
import { sqlStateOf } from "../postgres/sqlstate.ts";
import { together } from "./together.ts";

export interface MergeSessionOptions {
  readonly applicationName: string;
  /**
   * The replication origin that marks what this session merges as not our region's own; null: none (the sweeper's
   * and the repair's session, and servers that do not grant origins).
   */
  readonly origin: string | null;
  readonly settings?: Readonly<Record<string, string>>;
  readonly connectTimeoutMs?: number;
  readonly line?: Line | undefined;
}

/**
 * All statements of a merge find rows by key. Generic plans, so that a parameter of megabytes is neither planned with
 * nor converted twice; and no plan that reads a whole table, which a cached plan made while the table was
 * empty would keep doing when it no longer is.
 */
const planSettings: Readonly<Record<string, string>> = {
  plan_cache_mode: "force_generic_plan",
  enable_seqscan: "off",
  enable_hashjoin: "off",
  enable_mergejoin: "off",
  enable_material: "off",
};

/**
 * What a statement's parameters are made of is thrown away with it, and the C library gives such memory back to the
 * system, to fault it in again for the next: half the cost of receiving states. Having freed a block of this size once,
 * it keeps twice as much (glibc; others do not mind).
 */
const keptBlockBytes = 16 * 1024 * 1024;

const copyChunkBytes = 256 * 1024;

/** What is larger goes at once, as COPY does: the server works on it while more is made ready. */
const largeBytes = 64 * 1024;
const isLarge = (value: unknown): boolean => value instanceof Uint8Array && value.length > largeBytes;

/** What the driver's type leaves out. */
interface CopySender {
  endCopyFrom(): void;
}

/** COMMIT answered ROLLBACK: the transaction had failed before, and nothing of it is there. */
export class NotCommitted extends Error {
  readonly reaction = "retry";
  constructor(answer: string) {
    super(`the merge transaction was not committed: the server answered ${answer}`);
  }
}

/** The origin is held by another session, which did not end when it was told to. */
export class OriginBusy extends Error {
  readonly reaction = "retry";
  constructor(origin: string, cause: unknown) {
    super(`replication origin ${origin} is held by another session`, { cause });
  }
}

/**
 * A session that merges, and its transaction. It knows whether the server holds our replication origin, which is not
 * transactional: a rollback does not bring it back. One user at a time, who may ask several statements at once: they are
 * sent without waiting, and answered in order (`together`). After any error: `rollback`.
 */
export class MergeSession implements AsyncDisposable {
  readonly #client: Client;
  /** What was asked in this turn of the event loop. */
  #flight: Flight | null = null;
  /** Major version of the server. */
  readonly serverVersion: number;
  /** Of the region whose database this is. */
  readonly regionId: number;
  /** Null where there is none or the server does not grant it: then loops end at the versions alone. */
  #origin: string | null;
  #originSet = false;
  /** The open transaction has written rows of our own: it must be committed without the origin. */
  #wroteLocally = false;
  /** By text. */
  #statements = new Map<string, Statement>();
  #asked = 0;
  #epoch = 0;
  #open = false;
  /** A COMMIT failed by itself, which ends the transaction, or was not done, as something before it had failed. */
  #mayBeOpen = false;

  private constructor(
    client: Client,
    server: { readonly version: number; readonly region: number },
    origin: string | null,
  ) {
    this.#client = client;
    this.serverVersion = server.version;
    this.regionId = server.region;
    this.#origin = origin;
  }

  static async open(url: string, options: MergeSessionOptions): Promise<MergeSession> {
    const client = await connect(url, {
      applicationName: options.applicationName,
      settings: { ...mergeSettings, ...planSettings, ...options.settings },
      pipeline: true,
      line: options.line,
      ...(options.connectTimeoutMs === undefined ? {} : { connectTimeoutMs: options.connectTimeoutMs }),
    });
    try {
      const { rows } = await client.query<{ version: number; region: number }>(
        "SELECT current_setting('server_version_num')::int / 10000 AS version, coregent.region_id() AS region",
      );
      const [server] = rows;
      if (server === undefined) throw new Error("the server did not tell its version");
      // In two steps, and counted as bytes: made letter by letter it takes 80 ms.
      await client.query("SELECT octet_length(repeat(repeat('x', 4096), $1))", [keptBlockBytes / 4096]);
      const session = new MergeSession(client, server, options.origin);
      await session.#setUpOrigin();
      return session;
    } catch (error) {
      await client.end().catch(() => undefined);
      throw error;
    }
  }

  /** For statements that go by themselves, behind those which were asked before. */
  get client(): Client {
    this.#send();
    return this.#client;
  }

  /** False where origins are not granted, or none was asked for. */
  get marksOrigin(): boolean {
    return this.#origin !== null;
  }

  get inTransaction(): boolean {
    return this.#open;
  }

  /** How many statements were asked by `query` and `copyIn`. */
  get asked(): number {
    return this.#asked;
  }

  /** Its answer is not waited for: if the line has gone, what follows fails as well. */
  async begin(): Promise<void> {
    await this.#setUpOrigin();
    // A COMMIT in the same flight, if it failed, would take BEGIN with it, and what follows would be committed by itself.
    this.#send();
    this.#open = true;
    this.query("BEGIN").catch(() => undefined);
    this.#wroteLocally = false;
  }

  /**
   * The next transaction may be begun before it is answered.
   * @throws NotCommitted when the server rolled back instead.
   */
  async commit(): Promise<void> {
    // The server filters each change by its own origin. A commit that bears one hides the whole transaction.
    const reset = this.#wroteLocally ? this.#resetOrigin() : Promise.resolve();
    const asked = this.query("COMMIT");
    this.#open = false;
    try {
      const [, { command }] = await together([reset, asked]);
      if (command !== "COMMIT") throw new NotCommitted(command);
    } catch (error) {
      this.#mayBeOpen = true;
      throw error;
    }
  }

  /**
   * Ends the transaction after an error, if there is one. Statements are prepared anew: the error may have been that
   * a table is no longer what they were prepared for. The old ones go at both ends: a session lives for long, and yields
   * to local writers often.
   */
  async rollback(): Promise<void> {
    const statements = [...this.#statements.values()];
    this.#epoch += 1;
    this.#statements.clear();
    // In one message: what another part of the link asks in between would be prepared, and forgotten again.
    const open = this.#open || this.#mayBeOpen;
    await this.client.query(open ? "ROLLBACK; DEALLOCATE ALL" : "DEALLOCATE ALL");
    this.#open = false;
    this.#mayBeOpen = false;
    const { parsedStatements } = this.#client.connection as { parsedStatements?: Record<string, string> };
    for (const { name } of statements)
      if (parsedStatements !== undefined) Reflect.deleteProperty(parsedStatements, name);
  }

  /** Runs `work` in a transaction of its own. */
  async transaction<T>(work: () => Promise<T>): Promise<T> {
    await this.begin();
    try {
      const result = await work();
      await this.commit();
      return result;
    } catch (error) {
      await this.rollback().catch(() => undefined);
      throw error;
    }
  }

  /**
   * One statement, prepared once for each text. In a transaction, what is asked in one turn of the event loop goes in one
   * flight; so do COMMIT and what is asked behind it in its turn. Else a statement goes by itself.
   */
  async query<R = Record<string, unknown>>(
    text: string,
    values: readonly Parameter[] = [],
  ): Promise<Answer<R>> {
    this.#asked += 1;
    let statement = this.#statements.get(text);
    if (statement === undefined) {
      statement = new Statement(`m${this.#epoch}_${this.#statements.size}`, text);
      this.#statements.set(text, statement);
    }
    const alone = !this.#open && this.#flight === null;
    const answer = this.#boarding.ask(statement, values);
    const large = values.some(isLarge);
    if (large) uncorkTurn(this.#stream);
    if (large || alone) this.#send();
    return (await answer) as Answer<R>;
  }

  get #boarding(): Flight {
    if (this.#flight === null) {
      this.#flight = new Flight();
      nextTick(() => this.#send());
      // Later: so what was sent before in this turn goes along.
      corkTurn(this.#stream);
    }
    return this.#flight;
  }

  #send(): void {
    const flight = this.#flight;
    this.#flight = null;
    if (flight !== null) flight.sendBy(this.#client);
  }

  /** A COPY ... FROM STDIN with its data, which is sent without waiting until the server asks for it. */
  async copyIn(text: string, data: Buffer): Promise<void> {
    this.#asked += 1;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    uncorkTurn(this.#stream);
    const query = new Query(text, (error?: Error | null) => (error ? reject(error) : resolve()));
    const submit = (connection: Connection & CopySender): void => {
      connection.stream.cork();
      connection.query(text);
      for (let at = 0; at < data.length; at += copyChunkBytes) {
        const chunk = data.subarray(at, at + copyChunkBytes);
        // The driver would copy it.
        connection.stream.write(copyDataHeader(chunk.length));
        connection.stream.write(chunk);
      }
      connection.endCopyFrom();
      connection.stream.uncork();
    };
    this.client.query(Object.assign(query, { submit, handleCopyInResponse: () => undefined }));
    await promise;
  }

  /** `work`, or none of it: what it did is undone when it throws, and the transaction goes on. */
  async savepoint<T>(work: () => Promise<T>): Promise<T> {
    await this.client.query("SAVEPOINT piece");
    try {
      const result = await work();
      await this.client.query("RELEASE SAVEPOINT piece");
      return result;
    } catch (error) {
      // Released too: savepoints of one name nest, and those that are left cost memory in the server.
      await this.client.query("ROLLBACK TO SAVEPOINT piece");
      await this.client.query("RELEASE SAVEPOINT piece");
      throw error;
    }
  }

  /**
   * Within the transaction, `work` writes like every local session: triggers stamp, and the changes go to the
   * peers. Merging may go on after `resumeOrigin`.
   */
  async asLocalWriter<T>(work: () => Promise<T>): Promise<T> {
    await this.#resetOrigin();
    await this.client.query("SET LOCAL session_replication_role = origin");
    this.#wroteLocally = true;
    const result = await work();
    await this.client.query("SET LOCAL session_replication_role = replica");
    return result;
  }

  /** To be called before rows are merged in an open transaction: local writes have put the origin off. */
  async resumeOrigin(): Promise<void> {
    await this.#setUpOrigin();
  }

  /** Not in a transaction, and nothing is merged afterwards. Where it cannot be dropped, it stays. */
  async dropOrigin(): Promise<void> {
    await this.#resetOrigin();
    await this.client.query("SELECT pg_replication_origin_drop($1)", [this.#origin]).catch(() => undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.end().catch(() => undefined);
  }

  get #stream(): Connection["stream"] {
    return this.#client.connection.stream;
  }

  async #resetOrigin(): Promise<void> {
    if (!this.#originSet) return;
    this.#originSet = false;
    try {
      await this.client.query("SELECT pg_replication_origin_session_reset()");
    } catch (error) {
      this.#originSet = true;
      throw error;
    }
  }

  async #setUpOrigin(): Promise<void> {
    if (this.#origin === null || this.#originSet) return;
    this.#originSet = await (this.#open
      ? this.savepoint(() => setUpOrigin(this.client, this.#origin ?? ""))
      : setUpOrigin(this.client, this.#origin));
    if (!this.#originSet) this.#origin = null;
  }
}

/** Sets the origin up, making it if need be. False where the role may not. */
const setUpOrigin = async (client: Client, origin: string): Promise<boolean> => {
  for (let attempt = 1; ; attempt++) {
    try {
      await client.query("SELECT pg_replication_origin_session_setup($1)", [origin]);
      return true;
    } catch (error) {
      const state = sqlStateOf(error);
      if (state === "42501") return false;
      if (attempt === 5) throw state === "55006" ? new OriginBusy(origin, error) : error;
      if (state === "42704") {
        if (!(await createOrigin(client, origin))) return false;
      } else if (state === "55006") await evictHolders(client);
      else throw error;
    }
  }
};

const createOrigin = async (client: Client, origin: string): Promise<boolean> => {
  try {
    await client.query("SELECT pg_replication_origin_create($1)", [origin]);
  } catch (error) {
    const state = sqlStateOf(error);
    if (state === "42501") return false;
    // Another session was faster.
    if (state !== "23505" && state !== "42710") throw error;
  }
  return true;
};

/**
 * Ends sessions that have this name (default: our own) and are not us: what is left of our last connection where the network died
 * without a word (FAULTS 23). The server does not tell who holds an origin, but only a link of this name sets it up.
 */
export const evictHolders = async (client: Client, applicationName: string | null = null): Promise<void> => {
  await client.query(
    `SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity
      WHERE application_name = coalesce($1, current_setting('application_name')) AND pid <> pg_backend_pid()
        AND datname = current_database() AND usename = current_user`,
    [applicationName],
  );
};
