import * as fc from "fast-check";
import { expect, test } from "vitest";
import { hasAuthority } from "../../../conflict/ownership.ts";
import { compareStates, seenAfter, type State as PureState } from "../../../conflict/state.ts";
import { createDatabase, type TestDatabase } from "../../support/database.ts";
import { runs } from "../../conflict/runs.ts";
import { install, owned, states, tombstones, type State } from "../install/installed.ts";

/**
 * Random stories of one table, told in SQL, against the pure rules: after each statement every key holds the state
 * that `write` in conflict/ would make, but for the clock's own value.
 */

const here = 3;
const keys = [1, 2, 3, 4];
const owners = ["moldova", "argentina", null] as const;
type Owner = (typeof owners)[number];

type Step =
  | {
      readonly do: "insert" | "upsert" | "update" | "delete" | "merge delete";
      readonly key: number;
      readonly owner: Owner;
    }
  | { readonly do: "move"; readonly key: number; readonly to: number }
  | { readonly do: "truncate" | "delete all" }
  | {
      readonly do: "foreign";
      readonly key: number;
      readonly dead: boolean;
      readonly hours: number;
      readonly region: number;
      readonly authority: boolean;
      readonly owner: Owner;
    };

/** What the statement's transaction sets: what its stamps are to be above (microseconds from now, or no version), and a takeover. */
interface Wishes {
  readonly above: number | string | null;
  readonly takeover: string | null;
}
type Told = readonly [Step, Wishes];

const wishes: fc.Arbitrary<Wishes> = fc.record({
  above: fc.constantFrom(
    null,
    null,
    null,
    7_200_000_000,
    -7_200_000_000,
    "",
    "soon",
    "-5",
    "9223372036854775808",
  ),
  takeover: fc.constantFrom(null, null, "on", "off", "ON", ""),
});

const key = fc.constantFrom(...keys);
const owner = fc.constantFrom(...owners);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constantFrom("insert", "upsert", "update", "delete", "merge delete"),
      key,
      owner,
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("move"), key, to: key }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom("truncate", "delete all") }) },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant("foreign"),
      key,
      dead: fc.boolean(),
      hours: fc.constantFrom(-1, 1),
      region: fc.constantFrom(2, 7),
      authority: fc.boolean(),
      owner,
    }),
  },
) as fc.Arbitrary<Step>;

interface Held {
  readonly state: PureState;
  readonly owner: Owner;
}

/** What a key is to hold after a statement: its new state upon which old one, written with authority or not. */
interface Expected {
  readonly kind: "row" | "tombstone";
  readonly upon: PureState | null;
  readonly authority: boolean;
  readonly owner: Owner;
  /** Further states that its version must be above. */
  readonly above: readonly PureState[];
}

class Story {
  readonly #db: TestDatabase;
  readonly #owned: boolean;
  readonly #failover: "takeover" | "provisional";
  #wishes: { readonly above: bigint; readonly takeover: boolean } = { above: 0n, takeover: false };
  held = new Map<number, Held>();
  /** Unique per key: a foreign version is never given twice. */
  #foreign = 0n;

  constructor(db: TestDatabase, failover: "takeover" | "provisional" | null) {
    this.#db = db;
    this.#owned = failover !== null;
    this.#failover = failover ?? "takeover";
  }

  async reset(): Promise<void> {
    await this.#db.query(
      `SET session_replication_role = replica; DELETE FROM t; DELETE FROM coregent.${await this.#tombstone()};
       RESET session_replication_role`,
    );
  }

  async #tombstone(): Promise<string> {
    const [row] = await this.#db.query<{ t: string }>(
      "SELECT tombstone AS t FROM coregent.replicated_table WHERE name = 'public.t'",
    );
    return row?.t ?? "";
  }

  /** The highest state of each key, as the relations have it. */
  async read(): Promise<Map<number, Held>> {
    const found = new Map<number, Held>();
    const ownerOf = new Map(
      (await this.#db.query<{ id: number; home: Owner }>("SELECT id, home FROM t")).map((row) => [
        row.id,
        row.home,
      ]),
    );
    const put = (id: string, state: PureState): void => {
      const before = found.get(Number(id));
      if (before !== undefined && compareStates(before.state, state) >= 0) {
        throw new Error(`the row of key ${id} is outranked by its tombstone`);
      }
      found.set(Number(id), { state, owner: ownerOf.get(Number(id)) ?? null });
    };
    const pure = (state: State): Omit<PureState, "kind"> => ({ base: 0n, ...state });
    for (const [id, state] of await tombstones(this.#db, "public.t"))
      put(id, { kind: "tombstone", ...pure(state) });
    for (const [id, state] of await states(this.#db, "t"))
      put(id, { kind: "row", content: "", ...pure(state) });
    return found;
  }

  #live(id: number): Held | undefined {
    const held = this.held.get(id);
    return held?.state.kind === "row" ? held : undefined;
  }

  #authority(before: Owner | undefined, after: Owner | undefined): boolean {
    const { takeover } = this.#wishes;
    return (
      this.#owned && hasAuthority({ region: "moldova", before, after, takeover, failover: this.#failover })
    );
  }

  #row(upon: PureState | null, before: Owner | undefined, after: Owner): Expected {
    return { kind: "row", upon, authority: this.#authority(before, after), owner: after, above: [] };
  }

  #dead(held: Held): Expected {
    return {
      kind: "tombstone",
      upon: held.state,
      authority: this.#authority(held.owner, undefined),
      owner: null,
      above: [],
    };
  }

  /** The statement of a step, and what it makes of the keys it touches; null: it does not apply now. */
  plan(step: Step): { readonly sql: string; readonly makes: ReadonlyMap<number, Expected> } | null {
    if (step.do === "foreign") return null;
    if (!("key" in step)) {
      const makes = keys.flatMap((id) => {
        const held = this.#live(id);
        return held === undefined ? [] : [[id, this.#dead(held)] as const];
      });
      return { sql: step.do === "truncate" ? "TRUNCATE t" : "DELETE FROM t", makes: new Map(makes) };
    }
    const held = this.#live(step.key);
    const before = this.held.get(step.key)?.state ?? null;
    if (step.do === "move") {
      if (held === undefined || this.#live(step.to)) return null;
      const at = this.held.get(step.to)?.state ?? null;
      return {
        sql: `UPDATE t SET id = ${step.to}, v = 'moved' WHERE id = ${step.key}`,
        makes: new Map([
          [step.key, this.#dead(held)],
          [step.to, { ...this.#row(at, undefined, held.owner), above: [held.state] }],
        ]),
      };
    }
    const home = step.owner === null ? "NULL" : `'${step.owner}'`;
    const insert = `INSERT INTO t (id, v, home, cg_version, cg_prev, cg_seen) VALUES (${step.key}, 'x', ${home}, 99, 98, '{97}')`;
    switch (step.do) {
      case "insert":
        return held
          ? null
          : { sql: insert, makes: new Map([[step.key, this.#row(before, undefined, step.owner)]]) };
      case "upsert":
        return {
          sql: `${insert} ON CONFLICT (id) DO UPDATE SET v = excluded.v || t.v, home = excluded.home, cg_prev = 5, cg_version = 1`,
          makes: new Map([[step.key, this.#row(before, held?.owner, step.owner)]]),
        };
      case "update":
        return held === undefined
          ? null
          : {
              sql: `UPDATE t SET v = v || 'u', home = ${home}, cg_version = 0, cg_seen = NULL WHERE id = ${step.key}`,
              makes: new Map([[step.key, this.#row(before, held.owner, step.owner)]]),
            };
      case "delete":
        return held === undefined
          ? null
          : { sql: `DELETE FROM t WHERE id = ${step.key}`, makes: new Map([[step.key, this.#dead(held)]]) };
      case "merge delete":
        return held === undefined
          ? null
          : {
              sql: `MERGE INTO t USING (VALUES (${step.key})) s(id) ON t.id = s.id WHEN MATCHED THEN DELETE`,
              makes: new Map([[step.key, this.#dead(held)]]),
            };
    }
  }

  /** A state that a merge brought, if it outranks what is held. */
  async foreign(step: Extract<Step, { do: "foreign" }>): Promise<void> {
    this.#foreign += 1n;
    const micros = BigInt(Date.now()) * 1000n + BigInt(step.hours) * 3_600_000_000n + this.#foreign;
    const version = (micros << 10n) | BigInt(step.region);
    const seen = step.region === 7 && step.authority ? [`${((micros - 5n) << 10n) | 2n}`] : null;
    const base = this.#owned && step.authority ? version : 0n;
    const state = { kind: "row", content: "", base, version, prev: 0n, seen: null } as PureState;
    const before = this.held.get(step.key)?.state;
    if (before !== undefined && compareStates(before, state) >= 0) return;
    const columns = this.#owned ? "cg_version, cg_seen, cg_base" : "cg_version, cg_seen";
    const values = [step.key, String(version), seen, ...(this.#owned ? [String(base)] : [])];
    const marks = values.map((_, i) => `$${i + 1}`).join(", ");
    const set = columns
      .split(", ")
      .map((name) => `${name} = excluded.${name}`)
      .join(", ");
    const relation = step.dead ? `coregent.${await this.#tombstone()}` : "t";
    await this.#db.query("SET session_replication_role = replica");
    if (step.dead) await this.#db.query("DELETE FROM t WHERE id = $1", [step.key]);
    await this.#db.query(
      `INSERT INTO ${relation} (id, ${columns}) VALUES (${marks}) ON CONFLICT (id) DO UPDATE SET ${set}, cg_prev = 0`,
      values,
    );
    if (!step.dead) await this.#db.query("UPDATE t SET home = $2 WHERE id = $1", [step.key, step.owner]);
    await this.#db.query("RESET session_replication_role");
  }

  /** The setting's text is kept, so that values which are none reach the server. */
  #wish({ above, takeover }: Wishes): string {
    const version =
      typeof above === "number" ? ((BigInt(Date.now()) * 1000n + BigInt(above)) << 10n) | 7n : null;
    this.#wishes = { above: version ?? 0n, takeover: takeover === "on" };
    const set = (name: string, value: string | null): string =>
      value === null ? "" : `SET LOCAL coregent.${name} = '${value}'; `;
    return (
      set("stamp_above", version === null ? (above as string | null) : String(version)) +
      set("takeover", takeover)
    );
  }

  async tell([step, asked]: Told): Promise<void> {
    const sets = this.#wish(asked);
    if (step.do === "foreign") {
      await this.foreign(step);
      this.held = await this.read();
      return;
    }
    const plan = this.plan(step);
    if (plan === null) return;
    await this.#db.query(`BEGIN; ${sets}${plan.sql}; COMMIT`);
    const after = await this.read();
    for (const id of keys) {
      const expected = plan.makes.get(id);
      if (expected === undefined) expect(after.get(id), `key ${id} is untouched`).toEqual(this.held.get(id));
      else this.#compare(after.get(id), expected);
    }
    this.held = after;
  }

  #compare(found: Held | undefined, expected: Expected): void {
    const { upon } = expected;
    if (found === undefined) throw new Error("the key holds nothing");
    const { state } = found;
    expect(state).toMatchObject({
      kind: expected.kind,
      prev: upon?.version ?? 0n,
      seen: seenAfter(upon, here),
      base: expected.authority ? state.version : (upon?.base ?? 0n),
    });
    expect(found.owner).toBe(expected.owner);
    expect(state.version & 1023n).toBe(BigInt(here));
    expect(state.version).toBeGreaterThan(this.#wishes.above);
    for (const lower of [...expected.above, ...(upon === null ? [] : [upon])]) {
      expect(state.version).toBeGreaterThan(lower.version);
      expect(state.version).toBeGreaterThan(lower.base);
    }
  }
}

const plain = "CREATE TABLE t (id int PRIMARY KEY, v text, home text)";
const partitioned = `CREATE TABLE t (id int PRIMARY KEY, v text, home text) PARTITION BY RANGE (id);
  CREATE TABLE t_low PARTITION OF t FOR VALUES FROM (1) TO (3);
  CREATE TABLE t_high (v text, gone int, home text, id int NOT NULL); ALTER TABLE t_high DROP COLUMN gone;
  ALTER TABLE t ATTACH PARTITION t_high FOR VALUES FROM (3) TO (9)`;

/** As where a statement deletes many rows: their tombstones are written in another way. */
const deletesLikeMany = async (db: TestDatabase): Promise<void> => {
  const [fn] = await db.query<{ sql: string }>(
    `SELECT pg_get_functiondef(p.oid) AS sql FROM pg_trigger AS g JOIN pg_proc AS p ON p.oid = g.tgfoid
      WHERE g.tgrelid = 't'::regclass AND g.tgname = '~coregent_deleted'`,
  );
  const few = /(?<=LIMIT |OFFSET |entombed = )500/gu;
  expect(fn?.sql.match(few)).toHaveLength(4);
  await db.query(fn?.sql.replaceAll(few, "0") ?? "");
};

test.each([
  ["plain", 18, plain, null],
  ["plain with owners", 18, plain, "takeover"],
  ["plain with provisional takeovers", 18, plain, "provisional"],
  ["partitioned", 18, partitioned, null],
  ["partitioned with owners", 18, partitioned, "takeover"],
  ["plain with owners", 17, plain, "takeover"],
  ["plain with owners", 16, plain, "takeover"],
  ["partitioned", 16, partitioned, null],
  ["plain, deletes of many", 18, plain, null],
  ["plain with owners, deletes of many", 18, plain, "takeover"],
  ["plain with provisional takeovers, deletes of many", 16, plain, "provisional"],
] as const)(
  "every statement stamps as the pure rules say: %s, PostgreSQL %i",
  async (name, version, table, failover) => {
    await using db = await createDatabase({ version });
    await db.query(table);
    await install(db, failover === null ? {} : { tables: [{ ...owned("public.t", "home"), failover }] });
    if (name.endsWith("deletes of many")) await deletesLikeMany(db);
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(step, wishes), { minLength: 1, maxLength: 14 }), async (steps) => {
        const story = new Story(db, failover);
        await story.reset();
        for (const each of steps) await story.tell(each);
      }),
      runs(version === 18 ? 60 : 20),
    );
  },
);
