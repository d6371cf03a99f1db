import process from "node:process";
import { setImmediate } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, expect, test, vi } from "vitest";
import { maxSeed, type Random, seeded } from "../../src/demo/random.ts";
import { MergeAhead } from "../../src/replication/merge-ahead.ts";
import { eventually } from "../support/database.ts";
import { wholeNumber } from "../support/whole-number.ts";
import { Regions } from "./agents.ts";

/** A link that is far behind, with small batches: many of them are merged ahead. */

const seed = wholeNumber(process.env["COREGENT_SEED"] ?? String(Date.now() % maxSeed), "COREGENT_SEED", 0);

// However much other tests write to the same server, it is not read by SQL.
const limits = { backlogBytes: 2 ** 40, maxBatchRows: 20, maxBatchBytes: 16_000 };

let regions: Regions;

beforeAll(async () => {
  regions = await Regions.create({
    schema: `CREATE TABLE items (id int PRIMARY KEY, name int UNIQUE, body text);
             CREATE TABLE notes (id text PRIMARY KEY, body text)`,
  });
  const { b } = await regions.agents(limits);
  await write(200);
  await regions.equal();
  await b!.stop();
});
afterAll(() => regions[Symbol.asyncDispose]());
afterEach(() => vi.restoreAllMocks());

const keys = 600;

/** What one writer does, so that all of it fits. */
class Writer {
  readonly #random: Random;
  readonly #names = new Map<number, number>();
  #lastName = 0;
  /** Names that were given up, and when: in the batch in which that happens, nobody else can take them. */
  readonly #free: { readonly name: number; readonly change: number }[] = [];
  #change = 0;

  constructor(random: Random) {
    this.#random = random;
  }

  transaction(): string {
    const statements = Array.from({ length: this.#random.integer(1, 4) }, () => this.#statement());
    return `BEGIN; ${statements.join("; ")}; COMMIT`;
  }

  #statement(): string {
    this.#change += 1;
    const random = this.#random;
    const id = random.integer(1, keys);
    const body = "x".repeat(random.integer(0, 60));
    if (random.chance(0.2))
      return `INSERT INTO notes VALUES ('n${id}', '${body}') ON CONFLICT (id) DO UPDATE SET body = excluded.body`;
    const name = this.#names.get(id);
    if (name === undefined) return `INSERT INTO items VALUES (${id}, ${this.#take(id)}, '${body}')`;
    if (random.chance(0.2)) {
      this.#names.delete(id);
      this.#free.push({ name, change: this.#change });
      return `DELETE FROM items WHERE id = ${id}`;
    }
    if (random.chance(0.2)) {
      this.#free.push({ name, change: this.#change });
      return `UPDATE items SET name = ${this.#take(id)} WHERE id = ${id}`;
    }
    return `UPDATE items SET body = '${body}' WHERE id = ${id}`;
  }

  /** Now and then one that was given up in the batch before, or a little earlier. */
  #take(id: number): number {
    while (this.#free.length > 0 && this.#change - this.#free[0]!.change > 45) this.#free.shift();
    const [oldest] = this.#free;
    const again = oldest !== undefined && this.#change - oldest.change > 24 && this.#random.chance(0.15);
    const name = again ? this.#free.shift()!.name : ++this.#lastName;
    this.#names.set(id, name);
    return name;
  }
}

const writer = new Writer(seeded(seed));

const write = async (transactions: number): Promise<void> => {
  const session = await regions.db("a").connect();
  for (let done = 0; done < transactions; done += 200)
    await session.query(Array.from({ length: 200 }, () => writer.transaction()).join("; "));
};

const aheadOfB = `
FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'coregent ahead > b'`;

/**
 * Ends the session in which a batch is merged ahead, from the moment when one had its turn: so many times, or as often as
 * it comes until `ended`.
 */
const endSessions = async (times: number, begun: () => boolean, ended: AbortSignal): Promise<number> => {
  let done = 0;
  while (!begun() && !ended.aborted) await setImmediate();
  while (done < times && !ended.aborted)
    done += (
      await regions
        .db("b")
        .query(`SELECT pg_terminate_backend(pid, 1000) ${aheadOfB} AND backend_xid IS NOT NULL`)
    ).length;
  return done;
};

test.each([0, 3])(
  `a backlog of small batches is merged whole, many of them ahead, where their session ends %i times (COREGENT_SEED=${seed})`,
  async (times) => {
    const taken = vi.spyOn(MergeAhead.prototype, "take");
    const ahead = (): number => taken.mock.results.filter(({ value }) => value !== null).length;
    const agent = await regions.agent("b", limits).streaming();
    await regions.equal();
    await agent.stop();
    await write(1_400);
    // Conflicts with what comes.
    await regions.db("b").query("UPDATE notes SET body = 'here' WHERE id LIKE 'n%5'");
    const again = regions.agent("b", limits);
    const equal = new AbortController();
    const ending = endSessions(times, () => ahead() > 0, equal.signal);
    await again.streaming();
    await regions.equal(60_000).finally(() => equal.abort());
    const ended = await ending;
    // One that is lost is not asked for again soon.
    expect(ahead()).toBeGreaterThan(times === 0 ? 10 : 0);
    expect(ended).toBeGreaterThanOrEqual(Math.min(1, times));
    if (times === 0) expect(again.link("a").lastError).toBeNull();
    expect(again.errors()).toEqual([]);
    expect(again.link("a").resyncs).toBe(0);
    for (const region of regions.names) {
      const [row] = await regions.db(region).query("SELECT count(*)::int > 0 AS some FROM coregent.conflict");
      expect(row).toEqual({ some: true });
    }
    // The link is current, and has given the session back.
    await eventually(async () => expect(await regions.db("b").query(`SELECT ${aheadOfB}`)).toEqual([]));
    await again.stop();
  },
);
