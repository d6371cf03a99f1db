import { pause } from "../convergence/session.ts";
import { isDone, rowsPath, saidOf, send, untilDecided, versionOf, type Answer } from "./client.ts";
import { type Accepted, type Done, keyText, type Kind, type Request } from "./record.ts";
import { ClientSession } from "./session.ts";
import { Client, type Row, sharedRows, type WriterParts } from "./writers.ts";

type Pair = readonly [Row, Row];

/**
 * An application beside one endpoint that writes several rows at once, by `POST /v1/transactions`. Each of its transactions
 * writes both rows of a pair, which nobody else writes: read together, at any endpoint, they are of one transaction.
 */
export class TransactionWriter extends Client {
  readonly #session: ClientSession;
  readonly #shared: readonly [Row, ...Row[]];
  /** Pairs that were written, and so are there. */
  readonly #there = new Set<Pair>();
  readonly #inserted: Row[] = [];
  #count = 0;

  constructor(parts: WriterParts, regions: readonly string[]) {
    super(parts);
    this.#session = new ClientSession(parts.name, parts.recorder);
    this.#shared = sharedRows(regions);
  }

  async run(): Promise<void> {
    const { stop, random, name, endpoints } = this.parts;
    const pair = (table: Row["table"], owner: string | null): Pair => {
      const id = `${name}-${table}-${owner ?? "any"}`;
      return [
        { table, owner, id: `${id}-1` },
        { table, owner, id: `${id}-2` },
      ];
    };
    const pairs: readonly [Pair, ...Pair[]] = [
      pair("plain", null),
      ...endpoints.flatMap(({ region }) => [pair("taken", region), pair("lent", region)]),
    ];
    for (const each of pairs) await this.#write(each, "put");
    while (!stop.aborted) {
      const each = random.pick(pairs);
      await this.#write(each, random.chance(0.8) ? "update" : "put");
      if (random.chance(0.6)) await this.#read(random.pick(pairs));
      await pause(random.integer(0, 80));
    }
  }

  /** Both rows of a pair, and at times a new row, one that is deleted, and one that all write. */
  async #write(pair: Pair, kind: Kind): Promise<void> {
    const { random } = this.parts;
    const wanted: [Kind, Omit<Row, "id"> & { readonly id: string | null }][] = [[kind, pair[0]]];
    if (random.chance(0.5)) wanted.push(["insert", { table: "plain", owner: null, id: null }]);
    const gone = random.chance(0.3) ? this.#inserted.shift() : undefined;
    if (gone !== undefined) wanted.push(["delete", gone]);
    if (random.chance(0.2)) wanted.push(["update", this.#sharedWith(pair)]);
    wanted.push([kind, pair[1]]);
    const { done, answer } = await this.#send(wanted.map(([each, row]) => this.wanted(each, row)));
    if (answer === null) return;
    for (const { accepted, table, kind: of, owner } of done) {
      if (accepted === null) continue;
      this.#there.add(pair);
      this.#session.wrote(table, accepted, answer.headers);
      const [id] = JSON.parse(accepted.key) as [string];
      if (of === "insert") this.#inserted.push({ table, owner, id });
    }
  }

  /** Of one owner at most, or it would not be known who is to write. */
  #sharedWith([{ table, owner }]: Pair): Row {
    const { random } = this.parts;
    const fitting = this.#shared.filter((row) => row.table === table && row.owner === owner);
    return random.pick(fitting.length === 0 ? this.#shared : (fitting as [Row, ...Row[]]));
  }

  async #send(parts: readonly Request[]): Promise<{ done: readonly Done[]; answer: Answer | null }> {
    this.#count += 1;
    const { name, recorder } = this.parts;
    const transaction = `${name}#${this.#count}`;
    const idempotencyKey = parts[0]?.idempotencyKey ?? null;
    const requests = parts.map((part, i) => ({
      ...part,
      token: `${transaction}/${i}`,
      transaction,
      idempotencyKey,
    }));
    const { attempts, ending, answer } = await untilDecided(
      {
        method: "POST",
        path: "/v1/transactions",
        body: { operations: requests.map((part) => operationOf(part, this.body(part))) },
        headers: this.#session.headers,
      },
      idempotencyKey,
      this.patience(),
    );
    const accepted = isDone(ending) && answer !== null ? acceptedFrom(requests, answer) : null;
    const done = requests.map((part, i) => ({ ...part, attempts, ending, accepted: accepted?.[i] ?? null }));
    recorder.requests.push(...done);
    return { done, answer };
  }

  async #read(pair: Pair): Promise<void> {
    const { random, endpoints, recorder, name } = this.parts;
    const [{ table }] = pair;
    const path = `${rowsPath(table)}?id=in.(${pair.map(({ id }) => id).join(",")})&select=id,token`;
    const headers = { ...this.#session.headers, prefer: "wait=2" };
    const endpoint = random.pick(endpoints);
    const isThere = this.#there.has(pair);
    const { attempt, answer } = await send(endpoint, { method: "GET", path, headers });
    recorder.reads.push(attempt);
    if (answer === null || attempt.code !== null) return;
    const rows = answer.json as unknown as readonly { readonly token: string }[];
    for (const line of problemsOfPair(rows, isThere))
      recorder.problem(`${name} read at ${endpoint.region}, of ${table}: ${line}`);
    await this.#session.read(endpoint, table, random.pick(pair).id);
  }
}

/** What is wrong with what was read of two rows that each transaction writes both of. */
export const problemsOfPair = (rows: readonly { readonly token: string }[], isThere: boolean): string[] => {
  const of = new Set(rows.map(({ token }) => token.slice(0, token.indexOf("/"))));
  const whole = rows.length === 2 && of.size === 1;
  return whole || (rows.length === 0 && !isThere)
    ? []
    : [`not one whole transaction: ${rows.map(({ token }) => token).join(", ") || "nothing"}`];
};

/** As the API takes it. */
const operationOf = ({ kind, table, id }: Request, row: Readonly<Record<string, unknown>>): object => {
  switch (kind) {
    case "insert":
      return { op: "insert", table, rows: row };
    case "put":
      return { op: "upsert", table, rows: row, replace: true };
    case "update":
      return { op: "update", table, key: id, set: row };
    case "delete":
      return { op: "delete", table, key: id };
    default:
      return kind satisfies never;
  }
};

interface Result {
  readonly rows: readonly { readonly id: string }[];
  readonly etags: readonly string[];
}

const acceptedFrom = (parts: readonly Request[], { headers, json }: Answer): Accepted[] => {
  const results = json["results"] as readonly Result[];
  return parts.map(({ id }, i) => ({
    ...saidOf(headers),
    ...versionOf(results[i]?.etags[0] ?? null),
    key: keyText(id ?? results[i]?.rows[0]?.id ?? ""),
  }));
};
