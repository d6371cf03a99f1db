import {
  array,
  assert,
  asyncProperty,
  boolean,
  constant,
  integer,
  nat,
  oneof,
  record,
  type Arbitrary,
} from "fast-check";
import { describe, expect, test } from "vitest";
import type { PostgresVersion } from "../../src/embedded/binaries.ts";
import { runs } from "../conflict/runs.ts";
import { MergeRegion } from "./merge-fixture.ts";
import { PureRegion, SqlRegion, type Change } from "./merge-twin.ts";

const schema = `
CREATE TABLE plain (id text PRIMARY KEY, val text, owner text);
CREATE TABLE owned (id text PRIMARY KEY, val text, owner text);`;

interface Step {
  readonly what: "write" | "exchange" | "here" | "merge";
  readonly at: number;
  readonly key: number;
  readonly flag: boolean;
  /** Which of the states made so far are merged, as shares of them. */
  readonly picks: readonly number[];
  readonly skew: number;
}

const step: Arbitrary<Step> = record({
  what: oneof(
    { weight: 6, arbitrary: constant("write" as const) },
    { weight: 3, arbitrary: constant("exchange" as const) },
    { weight: 2, arbitrary: constant("here" as const) },
    { weight: 5, arbitrary: constant("merge" as const) },
  ),
  at: nat(2),
  key: nat(2),
  flag: boolean(),
  // Not of doubles: nearly all of those that are drawn are next to 0.
  picks: array(
    nat(999).map((pick) => pick / 1000),
    { minLength: 1, maxLength: 5 },
  ),
  skew: integer({ min: -3_000, max: 3_000 }),
});

interface Story {
  /** Keys that were there in every region, with equal content or not, before they were joined. */
  readonly baseline: readonly boolean[];
  readonly steps: readonly Step[];
}

const story: Arbitrary<Story> = record({
  baseline: array(boolean(), { maxLength: 3 }),
  steps: array(step, { maxLength: 40, size: "max" }),
});

/** Region 1 in memory and in PostgreSQL, and the regions 2 to 4 that send to it, in memory alone. */
class Play {
  readonly #here = new PureRegion(1);
  readonly #others = [new PureRegion(2), new PureRegion(3), new PureRegion(4)];
  readonly #made: Change[] = [];
  readonly #sql: SqlRegion;
  readonly #owned: boolean;
  #micros = 1_700_000_000_000_000n;
  #content = 0;

  constructor(sql: SqlRegion, owned: boolean) {
    this.#sql = sql;
    this.#owned = owned;
  }

  async run({ baseline, steps }: Story): Promise<void> {
    await this.#sql.clear();
    for (const [index, equal] of baseline.entries()) {
      for (const region of [this.#here, ...this.#others]) {
        const content = equal ? "same" : `of ${region.id}`;
        await this.#write(region, `k${index}`, { content, authority: false, skew: 0 });
      }
    }
    for (const one of steps) await this.#step(one);
  }

  async #step({ what, at, key, flag, picks, skew }: Step): Promise<void> {
    const other = this.#others[at];
    if (other === undefined) throw new Error("no such region");
    const chosen = picks.flatMap((pick) => this.#made[Math.floor(pick * this.#made.length)] ?? []);
    switch (what) {
      case "exchange":
        return other.merge(chosen);
      case "write":
      case "here": {
        const deletes = flag && skew > 0;
        const content = deletes ? null : `c${++this.#content}`;
        await this.#write(what === "here" ? this.#here : other, `k${key}`, {
          content,
          authority: this.#owned && (picks[0] ?? 0) > 0.5,
          skew,
        });
        return;
      }
      case "merge":
        this.#here.merge(chosen);
        await this.#sql.merge(chosen, flag ? "binary" : "text");
        await this.#check();
    }
  }

  async #write(
    region: PureRegion,
    key: string,
    by: { content: string | null; authority: boolean; skew: number },
  ): Promise<void> {
    this.#micros += 1_000n;
    const change = region.write(key, { ...by, clockMicros: this.#micros + BigInt(by.skew) });
    if (change === null) return;
    this.#made.push(change);
    if (region === this.#here) await this.#sql.put(change);
  }

  async #check(): Promise<void> {
    const byKey = <T>(held: ReadonlyMap<string, T>): [string, T][] =>
      [...held].sort(([a], [b]) => (a < b ? -1 : 1));
    expect(byKey(await this.#sql.held())).toEqual(byKey(this.#here.held));
    const logged = await this.#sql.reports();
    expect(logged).toEqual(this.#here.reports(logged));
    expect((await this.#sql.floor()) >= this.#here.floor).toBe(true);
  }
}

const stepOf = (what: Step["what"], at: number, more: Partial<Step> = {}): Step => ({
  what,
  at,
  key: 1,
  flag: false,
  picks: [0],
  skew: 0,
  ...more,
});

/** A state that was deleted here comes again, after another region's write has outranked the tombstone. */
const comesAgain: Story = {
  baseline: [],
  steps: [
    stepOf("write", 1),
    stepOf("merge", 0),
    stepOf("here", 0, { flag: true, skew: 1 }),
    stepOf("write", 0),
    stepOf("merge", 0, { picks: [0.9] }),
    stepOf("merge", 0),
  ],
};

/** And once more, after a write upon what outranked the tombstone. */
const comesTwice: Story = {
  baseline: [],
  steps: [...comesAgain.steps, stepOf("here", 0), stepOf("merge", 0)],
};

/** Two writes of one region lose, the later one upon the other, and come one after the other: both are logged. */
const bothLose: Story = {
  baseline: [],
  steps: [
    stepOf("write", 1),
    stepOf("write", 1),
    stepOf("write", 0),
    stepOf("merge", 0, { picks: [0.9] }),
    stepOf("merge", 0),
    stepOf("merge", 0, { picks: [0.5] }),
  ],
};

const never = Number.POSITIVE_INFINITY;

describe.each<{ version: PostgresVersion; lockFirst: boolean; leastCopied: number; usual: number }>([
  { version: 18, lockFirst: false, leastCopied: never, usual: 200 },
  { version: 18, lockFirst: false, leastCopied: 1, usual: 100 },
  { version: 18, lockFirst: true, leastCopied: never, usual: 100 },
  { version: 17, lockFirst: true, leastCopied: 1, usual: 20 },
  { version: 16, lockFirst: true, leastCopied: never, usual: 20 },
])("PostgreSQL $version, locking first: $lockFirst, by COPY from $leastCopied", (options) => {
  const { version, lockFirst, leastCopied, usual } = options;
  test.each(["plain", "owned"])(
    "merges states of a table (%s) as the pure rules do",
    async (name) => {
      await using region = await MergeRegion.create({ schema, owners: { owned: "owner" }, version });
      const session = await region.session();
      const sql = new SqlRegion(region, session, region.table(name), { lockFirst, leastCopied });
      await assert(
        asyncProperty(story, (of) => new Play(sql, name === "owned").run(of)),
        { ...runs(usual), examples: [[comesAgain], [bothLose], [comesTwice]] },
      );
    },
    300_000,
  );
});
