import { type Client, type Connection, Query, type QueryResult } from "pg";
import { corked } from "../corked.ts";

/** A statement that stays prepared in its session under this name. */
export interface Statement {
  readonly name: string;
  readonly text: string;
  readonly values: readonly unknown[];
}

/** What of the driver's connection is used, and its queries' handlers; its types leave most of it out. */
interface Wire extends Connection {
  readonly submittedNamedStatements: Record<string, string>;
  sync(): void;
}

interface DriverQuery {
  name?: string | undefined;
  text?: string | undefined;
  submit(wire: Wire): Error | null;
  handleRowDescription(message: unknown): void;
  handleDataRow(message: unknown): void;
  handleCommandComplete(message: unknown, wire: Wire): void;
  handleError(error: Error, wire: Wire): void;
  handleReadyForQuery(wire: Wire): void;
}

type Answer = (error: Error | null, result: QueryResult) => void;

// Where statements are sent ahead, the driver takes its own kind of query only.
const Driver = Query as unknown as new (
  statement: string | Omit<Statement, "values"> & { readonly values: readonly unknown[] },
  answer?: Answer,
) => DriverQuery;

/**
 * Statements of one session that are asked at once and answered at once: with one Sync behind the last, the server sends when it has
 * done them all, and wakes us once. After one that fails the others are not done, and fail of the same error; the
 * transaction, if one is open then, is to be rolled back, even where a COMMIT was among them.
 *
 *     const flight = new Flight();
 *     const answers = [flight.ask(a), flight.ask(b)];
 *     flight.sendBy(client); // one that pipelines
 *
 * Outside of a transaction they are one: the server begins it with the first and commits it with the last.
 */
export class Flight extends Driver {
  readonly #queries: DriverQuery[] = [];
  #answered = 0;

  constructor() {
    super("");
  }

  ask(statement: Statement): Promise<QueryResult> {
    const { promise, resolve, reject } = Promise.withResolvers<QueryResult>();
    this.#queries.push(new Driver(statement, (error, result) => (error ? reject(error) : resolve(result))));
    this.#follow();
    return promise;
  }

  sendBy(client: Client): void {
    void client.query(this as unknown as Query);
  }

  override submit(wire: Wire): Error | null {
    const withoutSync = Object.create(wire, { sync: { value: () => undefined } }) as Wire;
    return corked(wire.stream, () => {
      for (const query of this.#queries) {
        const error = query.submit(withoutSync);
        if (error !== null) throw error;
      }
      wire.sync();
      return null;
    });
  }

  override handleRowDescription(message: unknown): void {
    this.#current?.handleRowDescription(message);
  }

  override handleDataRow(message: unknown): void {
    this.#current?.handleDataRow(message);
  }

  override handleCommandComplete(message: unknown, wire: Wire): void {
    const query = this.#current;
    this.#answered += 1;
    this.#follow();
    query?.handleCommandComplete(message, wire);
    query?.handleReadyForQuery(wire);
  }

  override handleError(error: Error, wire: Wire): void {
    for (const query of this.#queries.slice(this.#answered)) {
      // It was not parsed either.
      if (query.name !== undefined) Reflect.deleteProperty(wire.submittedNamedStatements, query.name);
      query.handleError(error, wire);
    }
    this.#answered = this.#queries.length;
  }

  override handleReadyForQuery(): void {
    // Each has heard its own end.
  }

  get #current(): DriverQuery | undefined {
    return this.#queries[this.#answered];
  }

  /** The driver notes under the active query's name what the server has parsed. */
  #follow(): void {
    this.name = this.#current?.name;
    this.text = this.#current?.text;
  }
}
