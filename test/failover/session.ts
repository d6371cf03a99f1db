import { rowPath, send, versionOf, type Endpoint, type Sent } from "./client.ts";
import { keyText, type Accepted, type Missed } from "./record.ts";

interface Mark {
  readonly base: bigint;
  readonly version: bigint;
}

/** In the order of states. */
export const below = (a: Mark, b: Mark): boolean =>
  a.base < b.base || (a.base === b.base && a.version < b.version);

export interface SessionNotes {
  readonly problem: (line: string) => void;
  readonly missed: Missed[];
}

/** What one client has seen, in its token and in our own memory: neither what it wrote nor what it read may be older next. */
export class ClientSession {
  readonly #client: string;
  readonly #notes: SessionNotes;
  readonly #marks = new Map<string, Mark>();
  #token: string | null = null;

  constructor(client: string, notes: SessionNotes) {
    this.#client = client;
    this.#notes = notes;
  }

  get headers(): Readonly<Record<string, string>> {
    return this.#token === null ? {} : { "coregent-session": this.#token };
  }

  /** To be told of each write of the client that was accepted. */
  wrote(table: string, accepted: Accepted, headers: Headers): void {
    const mark = this.#marks.get(`${table} ${accepted.key}`);
    if (mark !== undefined && accepted.version <= mark.version && !accepted.replayed)
      this.#notes.problem(
        `${this.#client} wrote ${table} ${accepted.key} at ${accepted.region} as ${accepted.version}, after it had seen ${mark.version}`,
      );
    this.#raise(`${table} ${accepted.key}`, accepted);
    this.#token = headers.get("coregent-session") ?? this.#token;
  }

  /** Reads a row, waiting for what the session has seen. */
  async read(endpoint: Endpoint, table: string, id: string): Promise<Sent> {
    const headers = { ...this.headers, prefer: "wait=2" };
    const sent = await send(endpoint, { method: "GET", path: rowPath(table, id), headers });
    const { attempt, answer } = sent;
    const place = `${table} ${keyText(id)}`;
    const mark = this.#marks.get(place);
    if (answer !== null && attempt.code === null) {
      const seen = versionOf(answer.headers.get("etag"));
      if (mark !== undefined && below(seen, mark))
        this.#notes.problem(
          `${this.#client} was shown ${place} at ${endpoint.region} (by ${answer.headers.get("coregent-region")}) ` +
            `as ${seen.base}/${seen.version}, after it had seen ${mark.base}/${mark.version}`,
        );
      this.#raise(place, seen);
      this.#token = answer.headers.get("coregent-session") ?? this.#token;
    } else if (attempt.code === "row-not-found" && mark !== undefined) {
      this.#notes.missed.push({ client: this.#client, table, key: keyText(id), ...mark });
    } else if (attempt.status !== null && attempt.code !== "row-not-found" && !attempt.retryable) {
      this.#notes.problem(
        `${this.#client} read ${place} at ${endpoint.region}: ${attempt.status} ${attempt.code} (${attempt.detail}), not to be sent again`,
      );
    }
    return sent;
  }

  #raise(place: string, mark: Mark): void {
    const other = this.#marks.get(place);
    if (other === undefined || below(other, mark)) this.#marks.set(place, mark);
  }
}
