import { randomUUID } from "node:crypto";
import type { Random } from "../../src/demo/random.ts";
import { pause } from "../convergence/session.ts";
import { request, versionOf, type Endpoint, type Patience } from "./client.ts";
import type { Attempt, Done, Kind, Missed, Request } from "./record.ts";
import { ClientSession } from "./session.ts";
import { tables, type TableName } from "./tables.ts";
import type { Lane } from "./waits.ts";

/** Everything that the clients of a run did. */
export class Recorder {
  readonly requests: Done[] = [];
  readonly reads: Attempt[] = [];
  readonly missed: Missed[] = [];
  readonly problem: (line: string) => void;

  constructor(problem: (line: string) => void) {
    this.problem = problem;
  }
}

export interface WriterParts {
  readonly name: string;
  readonly endpoints: readonly [Endpoint, ...Endpoint[]];
  /** The endpoint that it asks, as long as that answers. */
  readonly home: Endpoint;
  readonly random: Random;
  readonly recorder: Recorder;
  /** Begins nothing new. */
  readonly stop: AbortSignal;
  /** Gives up what is under way. */
  readonly over: AbortSignal;
}

export interface Row {
  readonly table: TableName;
  readonly id: string;
  readonly owner: string | null;
}

const ownedTables = ["taken", "lent"] as const;
const rowsOfEach = 3;

/** Rows that all clients write. */
export const sharedRows = (regions: readonly string[]): readonly [Row, ...Row[]] => {
  const owners = { taken: regions, lent: regions, plain: [null] } as const;
  const [first, ...rest] = tables.flatMap(({ name: table }) =>
    owners[table].flatMap((owner) =>
      Array.from({ length: rowsOfEach }, (_, i) => ({ table, owner, id: `${owner ?? "any"}-${i + 1}` })),
    ),
  );
  if (first === undefined) throw new Error("there are no tables");
  return [first, ...rest];
};

export abstract class Client {
  protected readonly parts: WriterParts;
  protected endpoint: Endpoint;
  #leftHomeMs = 0;
  #count = 0;

  constructor(parts: WriterParts) {
    this.parts = parts;
    this.endpoint = parts.home;
  }

  protected wanted(kind: Kind, row: Omit<Row, "id"> & { readonly id: string | null }): Request {
    this.#count += 1;
    const { name, random } = this.parts;
    const idempotencyKey = random.chance(0.5) ? randomUUID() : null;
    const token = `${name}.${this.#count}`;
    return {
      token,
      kind,
      ...row,
      idempotencyKey,
      ifMatch: null,
      durable: null,
      waitMs: null,
      transaction: null,
    };
  }

  /** Goes on to the next endpoint where one does not answer, and back to its own after a while. */
  protected patience(): Patience {
    const { over, random, endpoints, home } = this.parts;
    if (performance.now() - this.#leftHomeMs > 2_000) this.endpoint = home;
    return {
      endpoints: {
        current: () => this.endpoint,
        next: () => {
          const at = endpoints.indexOf(this.endpoint);
          this.endpoint = endpoints[(at + 1) % endpoints.length] ?? home;
          this.#leftHomeMs = performance.now();
        },
      },
      pause: () => pause(random.integer(20, 250)),
      over,
    };
  }

  protected body({ kind, token, id, owner }: Request): Readonly<Record<string, unknown>> {
    const n = this.parts.random.integer(0, 1_000);
    if (kind === "update") return { token, n };
    return { ...(id === null ? {} : { id }), ...(owner === null ? {} : { home_region: owner }), token, n };
  }
}

/**
 * An application beside one endpoint, which goes to another one where it is not answered: writes rows of its own and those that
 * all write. Every other one carries its session along, and reads what it or others wrote, at any endpoint.
 */
export class Writer extends Client {
  readonly #shared: readonly [Row, ...Row[]];
  readonly #session: ClientSession | null;
  readonly #own: Row[] = [];

  constructor(
    parts: WriterParts,
    options: { readonly regions: readonly string[]; readonly session: boolean },
  ) {
    super(parts);
    this.#shared = sharedRows(options.regions);
    this.#session = options.session ? new ClientSession(parts.name, parts.recorder) : null;
  }

  async run(): Promise<void> {
    const { stop, random } = this.parts;
    while (!stop.aborted) {
      const row = await this.#write();
      if (this.#session !== null && row !== null && random.chance(0.7)) await this.#read(row);
      await pause(random.integer(0, 60));
    }
  }

  /** @returns the row, if it is known which it is */
  async #write(): Promise<Row | null> {
    const { random } = this.parts;
    const dice = random.next();
    if (dice < 0.3) return this.#insert();
    const row = this.#row();
    if (dice < 0.36) return this.#send(this.wanted("insert", row));
    if (dice < 0.44) return this.#send(this.wanted("put", row));
    if (dice < 0.52) return this.#send(this.wanted("delete", row));
    if (dice < 0.7) return this.#updateIfMatch(row);
    return this.#send(this.wanted("update", row));
  }

  #row(): Row {
    const { random } = this.parts;
    const [own, ...others] = this.#own;
    return own !== undefined && random.chance(0.4)
      ? random.pick([own, ...others])
      : random.pick(this.#shared);
  }

  async #insert(): Promise<Row | null> {
    const { random, endpoints } = this.parts;
    const table = random.pick(["taken", "lent", "plain"] as const);
    const owner = table === "plain" || random.chance(0.3) ? null : random.pick(endpoints).region;
    const id = random.chance(0.3) ? randomUUID() : null;
    const row = await this.#send(this.wanted("insert", { table, owner, id }));
    if (row === null) return null;
    this.#own.push(row);
    if (this.#own.length > 10) this.#own.shift();
    return row;
  }

  async #updateIfMatch(row: Row): Promise<Row | null> {
    const { answer } = await this.#get(this.endpoint, row);
    if (answer === null || answer.status !== 200) return null;
    const tag = answer.headers.get("etag") ?? "";
    const { version } = versionOf(tag);
    return this.#send({ ...this.wanted("update", row), ifMatch: version }, { "if-match": tag });
  }

  async #read(row: Row): Promise<void> {
    const { random, endpoints } = this.parts;
    await this.#get(random.pick(endpoints), row);
  }

  async #get(endpoint: Endpoint, { table, id }: Row) {
    const { recorder, name } = this.parts;
    const session = this.#session ?? new ClientSession(name, recorder);
    const sent = await session.read(endpoint, table, id);
    recorder.reads.push(sent.attempt);
    return sent;
  }

  async #send(wanted: Request, headers: Readonly<Record<string, string>> = {}): Promise<Row | null> {
    const { recorder } = this.parts;
    const patience = this.patience();
    const sent = { body: this.body(wanted), headers: { ...this.#session?.headers, ...headers } };
    const { done, answer } = await request(wanted, sent, patience);
    recorder.requests.push(done);
    const { accepted, table, owner } = done;
    if (accepted === null || answer === null) return null;
    this.#session?.wrote(table, accepted, answer.headers);
    return { table, owner, id: String((JSON.parse(accepted.key) as readonly string[])[0]) };
  }
}

/** Asks one endpoint without rest whether it accepts writes for the rows of one owner: so it is known from when on it does. */
export class Sentinel extends Client {
  readonly #owner: string | null;

  constructor(parts: WriterParts, owner: string | null) {
    super(parts);
    this.#owner = owner;
  }

  get #tables(): readonly TableName[] {
    return this.#owner === null ? ["plain"] : ownedTables;
  }

  get lanes(): readonly Lane[] {
    const endpoint = this.parts.home.region;
    return this.#tables.map((table) => ({ endpoint, table, owner: this.#owner }));
  }

  async run(): Promise<void> {
    const { stop, name } = this.parts;
    for (const table of this.#tables) await this.#send("put", table, name);
    while (!stop.aborted) {
      for (const table of this.#tables) {
        await this.#send("update", table, name);
        await this.#send("insert", table, null);
      }
    }
  }

  async #send(kind: Kind, table: TableName, id: string | null): Promise<void> {
    const { home, recorder, over } = this.parts;
    const wanted = this.wanted(kind, { table, id, owner: this.#owner });
    const patience: Patience = {
      endpoints: { current: () => home, next: () => undefined },
      pause: () => pause(50),
      over,
    };
    const { done } = await request(wanted, { body: this.body(wanted), headers: {} }, patience);
    recorder.requests.push(done);
    await pause(this.parts.random.integer(30, 110));
  }
}
