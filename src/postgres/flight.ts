import { type Client, type FieldDef, type Query, types } from "pg";
import { DriverQuery, ExtendedQuery, type Value, type Wire } from "./extended-query.ts";

/** What a parameter may be: bytes as the type's receive function reads them; an array of an array type. */
export type Parameter = Scalar | Uint8Array | readonly Scalar[];
type Scalar = string | number | bigint | boolean | null;

export interface Answer<R = Record<string, unknown>> {
  readonly rows: R[];
  /** Of the command's tag, e.g. rows written; null: it has none. */
  readonly rowCount: number | null;
  /** The tag's first word, e.g. `INSERT`. */
  readonly command: string;
}

/** A statement that stays prepared in one session under its name. */
export class Statement {
  readonly name: string;
  readonly text: string;
  /** Of the result; asked for with the first execution only: PostgreSQL refuses later ones if they would be others. */
  columns: readonly Column[] | null = null;

  constructor(name: string, text: string) {
    this.name = name;
    this.text = text;
  }
}

interface Column {
  readonly name: string;
  readonly parse: (text: string) => unknown;
}

/** One execution. */
interface Asked {
  readonly statement: Statement;
  readonly values: readonly Value[];
  readonly rows: Record<string, unknown>[];
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: Error) => void;
  /** What the server has sent cannot be read. */
  unreadable: Error | null;
}

/** The driver's; its type knows the built-in types only. */
const parserOf = types.getTypeParser as (typeOid: number) => Column["parse"];

/**
 * Statements of one session that are asked at once and answered at once: with one Sync behind the last, the server sends
 * when it has done them all, and wakes us once. After one that fails the others are not done, and fail of the same error; the
 * transaction, if one is open then, is to be rolled back, even where a COMMIT was among them.
 *
 *     const flight = new Flight();
 *     const answers = [flight.ask(a, []), flight.ask(b, [7])];
 *     flight.sendBy(client); // one that pipelines
 *
 * Statements of a flight that are in no transaction are one together: the server commits it with the Sync.
 */
export class Flight extends DriverQuery {
  readonly #asked: Asked[] = [];
  #answered = 0;
  #endLast = (): void => undefined;

  constructor() {
    super("");
  }

  /** @throws the server's error, or that the session has ended */
  ask(statement: Statement, values: readonly Parameter[]): Promise<Answer> {
    const { promise, resolve, reject } = Promise.withResolvers<Answer>();
    this.#asked.push({ statement, values: values.map(valueOf), rows: [], resolve, reject, unreadable: null });
    this.#follow();
    return promise;
  }

  sendBy(client: Client): void {
    void client.query(this as unknown as Query);
  }

  submit(wire: Wire): null {
    const query = new ExtendedQuery();
    for (const { statement, values } of this.#asked)
      query.run(wire, statement, { values, describe: statement.columns === null });
    query.sendTo(wire);
    return null;
  }

  handleRowDescription({ fields }: { readonly fields: readonly FieldDef[] }): void {
    const { statement } = this.#current;
    statement.columns = fields.map(({ name, dataTypeID }) => ({
      name,
      parse: parserOf(dataTypeID),
    }));
  }

  handleDataRow({ fields }: { readonly fields: readonly (string | null)[] }): void {
    const asked = this.#current;
    const row: Record<string, unknown> = {};
    try {
      for (const [i, { name, parse }] of (asked.statement.columns ?? []).entries()) {
        const text = fields[i] ?? null;
        row[name] = text === null ? null : parse(text);
      }
    } catch (error) {
      asked.unreadable ??= error instanceof Error ? error : new Error(String(error));
    }
    asked.rows.push(row);
  }

  handleCommandComplete({ text }: { readonly text: string }): void {
    const { statement, rows, resolve, reject, unreadable } = this.#current;
    statement.columns ??= [];
    const words = text.split(" ");
    const count = words.length > 1 ? Number(words.at(-1)) : Number.NaN;
    const answer = { rows, rowCount: Number.isNaN(count) ? null : count, command: words[0] ?? "" };
    const end = (): void => {
      this.#answered += 1;
      this.#follow();
      if (unreadable === null) resolve(answer);
      else reject(unreadable);
    };
    // Behind the last there is the Sync, which may commit it.
    if (this.#answered === this.#asked.length - 1) this.#endLast = end;
    else end();
  }

  handleError(error: Error, wire: Wire): void {
    for (const { statement, reject } of this.#asked.splice(this.#answered)) {
      // It was not parsed either.
      Reflect.deleteProperty(wire.submittedNamedStatements, statement.name);
      reject(error);
    }
  }

  handleReadyForQuery(): void {
    this.#endLast();
  }

  get #current(): Asked {
    const asked = this.#asked[this.#answered];
    if (asked === undefined) throw new Error("the server answers what it was not asked");
    return asked;
  }

  /** The driver notes under the active query's name what the server has parsed. */
  #follow(): void {
    const statement = this.#asked[this.#answered]?.statement;
    this.name = statement?.name;
    this.text = statement?.text;
  }
}

const valueOf = (parameter: Parameter): Value => {
  if (parameter === null || typeof parameter === "string" || parameter instanceof Uint8Array)
    return parameter;
  return typeof parameter === "object" ? `{${parameter.map(elementOf).join(",")}}` : String(parameter);
};

const elementOf = (element: Scalar): string =>
  typeof element === "string" ? `"${element.replaceAll(/["\\]/g, String.raw`\$&`)}"` : String(element);
