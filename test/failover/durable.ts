import { pause } from "../convergence/session.ts";
import { request } from "./client.ts";
import type { Done, Kind } from "./record.ts";
import { ClientSession } from "./session.ts";
import { Client, type Row, type WriterParts } from "./writers.ts";

/** What a region holds of a row at this moment; null: it cannot be asked. */
export type Held = (region: string, row: Row) => Promise<bigint | null>;

/**
 * An application beside one endpoint that asks for its writes to be in further regions before they are answered. Nobody
 * else writes its rows, so that wherever a write has arrived there is its version or a later one of this application.
 */
export class DurableWriter extends Client {
  readonly #held: Held;
  readonly #session: ClientSession;

  constructor(parts: WriterParts, held: Held) {
    super(parts);
    this.#held = held;
    this.#session = new ClientSession(parts.name, parts.recorder);
  }

  async run(): Promise<void> {
    const { stop, random, name, endpoints } = this.parts;
    const own: readonly [Row, ...Row[]] = [
      { table: "plain", id: name, owner: null },
      ...endpoints.map(({ region }) => ({ table: "taken", id: `${name}-${region}`, owner: region }) as const),
    ];
    for (const row of own) await this.#send("put", row);
    for (let n = 0; !stop.aborted; n += 1) {
      const row = random.pick(own);
      if (random.chance(0.3)) await this.#send("insert", { ...row, id: `${row.id}-${n}` });
      else await this.#send(random.chance(0.5) ? "put" : "update", row);
      await pause(random.integer(0, 60));
    }
  }

  async #send(kind: Kind, row: Row): Promise<void> {
    const { random, recorder, endpoints } = this.parts;
    const durable = random.chance(0.7) ? 1 : 2;
    const waitS = random.integer(1, 4);
    const wanted = { ...this.wanted(kind, row), durable, waitMs: waitS * 1000 };
    const prefer = `durable=${durable}, wait=${waitS}`;
    const sent = { body: this.body(wanted), headers: { ...this.#session.headers, prefer } };
    const { done, answer } = await request(wanted, sent, this.patience());
    recorder.requests.push(done);
    const { accepted, ending } = done;
    if (accepted === null || answer === null) return;
    this.#session.wrote(row.table, accepted, answer.headers);
    if (ending !== "acknowledged") return;
    const held = await Promise.all(
      endpoints.map(async ({ region }) => ({ region, version: await this.#held(region, row) })),
    );
    for (const line of problemsOfDurable(done, held)) recorder.problem(line);
  }
}

/** What is wrong with a write that was said to be in further regions, as these are at that moment. */
export const problemsOfDurable = (
  { table, token, durable, accepted }: Done,
  held: readonly { readonly region: string; readonly version: bigint | null }[],
): string[] => {
  if (durable === null || accepted === null) return [];
  const where = held
    .filter(({ region, version }) => region !== accepted.region && (version ?? Infinity) >= accepted.version)
    .map(({ region }) => region);
  if (where.length >= durable) return [];
  return [
    `${token} of ${table} was said to be durable in ${durable} further regions than ${accepted.region}, ` +
      `and ${where.length === 0 ? "none" : `only ${where.join(", ")}`} can have ${accepted.version}`,
  ];
};
