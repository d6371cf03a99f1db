import type { Client, ClientBase, FieldDef } from "pg";
import { DriverQuery, ExtendedQuery, type Wire } from "../postgres/extended-query.ts";
import { remembered } from "../remembered.ts";

export interface PreparedStatement {
  /** Under which it stays prepared in the session: one text for ever. */
  readonly name: string;
  readonly text: string;
  readonly values?: readonly (string | null)[];
}

export interface PreparedResult {
  /** As PostgreSQL wrote them: no parser rounds anything. */
  readonly rows: readonly (readonly (string | null)[])[];
  readonly fields: readonly FieldDef[];
  /** The command's tag, such as `INSERT 0 1`. */
  readonly tag: string;
}

/**
 * A statement that stays prepared in its session, for less than the driver's own way: one buffer is sent, the form of the
 * result is asked for with the first execution only (PostgreSQL refuses later ones if it would be another), and
 * rows stay the texts as which they come.
 * @throws as `client.query`
 */
export const queryPrepared = (client: ClientBase, statement: PreparedStatement): Promise<PreparedResult> =>
  new Promise((resolve, reject) => {
    void (client as Client).query(new PreparedQuery(statement, { resolve, reject }));
  });

/** The columns of a statement that is prepared in this session, which do not change any more; null: it is not, or they are not known. */
export const preparedFields = (
  client: ClientBase,
  { name, text }: PreparedStatement,
): readonly FieldDef[] | null => {
  const { connection } = client as unknown as { readonly connection: Wire };
  if (connection.parsedStatements[name] !== text) return null;
  return fieldsOf(connection).get(name) ?? null;
};

interface Outcome {
  readonly resolve: (result: PreparedResult) => void;
  readonly reject: (error: Error) => void;
}

/** The columns of each statement's result, by session and name. */
const fieldsOf = remembered((_wire: Wire) => new Map<string, readonly FieldDef[]>());

class PreparedQuery extends DriverQuery {
  override readonly name: string;
  override readonly text: string;
  readonly #values: readonly (string | null)[];
  readonly #outcome: Outcome;
  readonly #rows: (readonly (string | null)[])[] = [];
  #fields: readonly FieldDef[] | undefined;
  #tag = "";

  constructor({ name, text, values = [] }: PreparedStatement, outcome: Outcome) {
    super(text);
    this.name = name;
    this.text = text;
    this.#values = values;
    this.#outcome = outcome;
  }

  submit(wire: Wire): Error | null {
    const { name, text } = this;
    const parsed = wire.parsedStatements[name] ?? wire.submittedNamedStatements[name];
    if (parsed !== undefined && parsed !== text) {
      return new Error(`the prepared statement ${name} is another one`);
    }
    this.#fields = fieldsOf(wire).get(name);
    const query = new ExtendedQuery();
    query.run(wire, this, { values: this.#values, describe: this.#fields === undefined });
    query.sendTo(wire);
    return null;
  }

  handleRowDescription({ fields }: { readonly fields: readonly FieldDef[] }): void {
    this.#fields = fields;
  }

  handleDataRow({ fields }: { readonly fields: readonly (string | null)[] }): void {
    this.#rows.push(fields);
  }

  handleCommandComplete({ text }: { readonly text: string }, wire: Wire): void {
    this.#tag = text;
    this.#fields ??= [];
    fieldsOf(wire).set(this.name, this.#fields);
  }

  handleReadyForQuery(): void {
    this.#outcome.resolve({ rows: this.#rows, fields: this.#fields ?? [], tag: this.#tag });
  }

  handleError(error: Error): void {
    this.#outcome.reject(error);
  }
}
