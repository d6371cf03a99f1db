import type { Client } from "pg";
import type { BenchServer } from "./bench-server.ts";
import { LoadSession } from "./load-session.ts";
import { connect, pauseMs } from "./sql.ts";

/** What the writers insert: 8 columns; each writer counts its own rows, so that a look at its highest tells all. */
export const beatsSchema = `
CREATE TABLE beats (
  writer     int NOT NULL,
  n          int NOT NULL,
  name       text NOT NULL,
  note       text,
  price      numeric(12,2) NOT NULL,
  attributes jsonb NOT NULL,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  PRIMARY KEY (writer, n)
)`;

const insertBeat = `
INSERT INTO beats VALUES ($1::int, $2::int, 'beat ' || $2::int, md5($2::int::text), 12.34, '{"colour": "red", "weight": 7}', now(), now())`;

/** Writes to `beats`, and knows when each of its commits was answered. */
export class BeatWriter {
  readonly id: number;
  /** performance.now() of each answered commit; the row n is at index n. */
  readonly answeredAt: number[] = [];
  readonly #session: LoadSession;
  #next = 0;
  #refill = (): void => undefined;

  private constructor(id: number, session: LoadSession) {
    this.id = id;
    this.#session = session;
    session.onAnswer((index) => {
      this.answeredAt[index] = performance.now();
      this.#refill();
    });
  }

  static async open(server: BenchServer, database: string, id: number): Promise<BeatWriter> {
    return new BeatWriter(id, await LoadSession.open(server, database, { statement: insertBeat }));
  }

  get outstanding(): number {
    return this.#session.outstanding;
  }

  write(): void {
    this.#session.send([String(this.id), String(this.#next++)]);
  }

  /** So many as fast as they are taken, `depth` of them under way at any time. */
  async flood(count: number, depth: number): Promise<void> {
    let left = count;
    this.#refill = () => {
      for (; left > 0 && this.outstanding < depth; left -= 1) this.write();
    };
    this.#refill();
    await this.idle();
    this.#refill = () => undefined;
  }

  idle(): Promise<void> {
    return this.#session.idle();
  }

  end(): void {
    this.#session.end();
  }
}

export interface Sample {
  /** performance.now() when it was seen. */
  readonly atMs: number;
  /** From the answered commit until it was seen, at least 0. */
  readonly lagMs: number;
}

/**
 * Looks every millisecond or two at what can be seen of some writers' rows in another region. Writers and watchers live in
 * one process and so have one clock.
 */
export class BeatWatcher {
  readonly samples: Sample[] = [];
  readonly #client: Client;
  readonly #writers: readonly BeatWriter[];
  readonly #seen: Map<number, number>;
  readonly #everyMs: number;
  #ended = false;
  readonly #looking: Promise<void>;

  private constructor(client: Client, writers: readonly BeatWriter[], everyMs: number) {
    this.#client = client;
    this.#writers = writers;
    this.#everyMs = everyMs;
    this.#seen = new Map(writers.map(({ id }) => [id, -1]));
    this.#looking = this.#look();
  }

  static async open(url: string, writers: readonly BeatWriter[], everyMs = 1): Promise<BeatWatcher> {
    return new BeatWatcher(await connect(url), writers, everyMs);
  }

  /** Whether all that is answered has been seen. */
  get current(): boolean {
    return this.#writers.every(({ id, answeredAt }) => (this.#seen.get(id) ?? -1) >= answeredAt.length - 1);
  }

  async end(): Promise<void> {
    this.#ended = true;
    await this.#looking;
    await this.#client.end();
  }

  async #look(): Promise<void> {
    const ids = this.#writers.map(({ id }) => id);
    while (!this.#ended) {
      const { rows } = await this.#client.query<{ writer: number; n: number | null }>({
        name: "look",
        text: "SELECT w AS writer, (SELECT max(n) FROM beats WHERE writer = w) AS n FROM unnest($1::int[]) AS w",
        values: [ids],
      });
      const now = performance.now();
      for (const { writer, n } of rows) this.#note(writer, n ?? -1, now);
      await pauseMs(this.#everyMs);
    }
  }

  #note(id: number, highest: number, now: number): void {
    const answeredAt = this.#writers.find((writer) => writer.id === id)?.answeredAt ?? [];
    for (let n = (this.#seen.get(id) ?? -1) + 1; n <= highest; n += 1) {
      // Seen before its writer was told: no lag.
      this.samples.push({ atMs: now, lagMs: Math.max(0, now - (answeredAt[n] ?? now)) });
    }
    this.#seen.set(id, Math.max(highest, this.#seen.get(id) ?? -1));
  }
}

/** Transactions at an even rate, whether or not they are answered in time. @throws when the server falls far behind */
export const writeAtRate = async (
  writers: readonly BeatWriter[],
  { perSecond, seconds }: { readonly perSecond: number; readonly seconds: number },
): Promise<void> => {
  const startedAt = performance.now();
  const total = Math.round(perSecond * seconds);
  for (let sent = 0; sent < total;) {
    const due = Math.min(total, Math.floor(((performance.now() - startedAt) / 1000) * perSecond));
    for (; sent < due; sent += 1) writers[sent % writers.length]?.write();
    const outstanding = writers.reduce((sum, writer) => sum + writer.outstanding, 0);
    if (outstanding > maxOutstanding) {
      throw new Error(`the servers do not take ${Math.round(perSecond)} transactions a second here`);
    }
    await pauseMs(1);
  }
  await Promise.all(writers.map((writer) => writer.idle()));
};

const maxOutstanding = 20_000;
