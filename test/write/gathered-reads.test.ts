import { setImmediate } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import type { Problem } from "../../src/problems.ts";
import type { Master } from "../../src/write/master.ts";
import type { SelectOperation } from "../../src/write/operation.ts";
import type { ReadOutcome, RegionalWriter } from "../../src/write/writer.ts";
import { eventually } from "../support/eventually.ts";
import { select } from "./fixture.ts";
import { WritingRegions } from "./masters-fixture.ts";
import { codeOf, insert, request, rowsOf } from "./writer-requests.ts";

/** Reads by key of concurrent requests, one statement of many. */

let all: WritingRegions;

beforeAll(async () => {
  all = await WritingRegions.create(`
    CREATE TABLE public.parts (a text, b int, c text, PRIMARY KEY (a, b));
    CREATE TABLE public.things (id uuid PRIMARY KEY, ord int);
    CREATE TABLE public.long (id int PRIMARY KEY, body text);
    CREATE TABLE public.altered (id int PRIMARY KEY, n int);`);
  await all.regions.db("a").query(`
    INSERT INTO parts SELECT 'p,' || n, n, 'of ' || n FROM generate_series(1, 40) AS n;
    INSERT INTO things SELECT ('0197e0c4-7f2a-7000-8000-0000000000' || lpad(to_hex(n), 2, '0'))::uuid, n
      FROM generate_series(1, 40) AS n;
    INSERT INTO long SELECT n, repeat('x', 1000000) || n FROM generate_series(1, 40) AS n;
    INSERT INTO altered SELECT n, n FROM generate_series(1, 40) AS n`);
});
afterEach(() => all.calm());
afterAll(() => all[Symbol.asyncDispose]());

const by = (table: string, ...key: string[]): SelectOperation => select(table, { key });

const readAll = (
  writer: RegionalWriter,
  operations: readonly SelectOperation[],
): Promise<(ReadOutcome | Problem)[]> =>
  Promise.all(
    operations.map((operation) =>
      writer
        .read({
          operations: [operation],
          session: null,
          waitMs: 0,
          signal: new AbortController().signal,
        })
        .catch((error: unknown) => error as Problem),
    ),
  );

/** The row, or why there is none. */
const told = (outcome: ReadOutcome | Problem): unknown =>
  "results" in outcome ? rowsOf(outcome.results)[0] : codeOf(outcome);

/** Reads, and how many sessions with region a were taken for it. */
const counted = async (
  reading: () => Promise<(ReadOutcome | Problem)[]>,
  master: Master | undefined,
): Promise<{ outcomes: (ReadOutcome | Problem)[]; sessions: number }> => {
  const outcomes = reading();
  await setImmediate();
  await setImmediate();
  const sessions = master?.connections.inFlight ?? 0;
  return { outcomes: await outcomes, sessions };
};

const numbers = Array.from({ length: 40 }, (_, n) => n + 1);

test("each is answered its own row, or that there is none; by a few sessions", async () => {
  const { writer, masters } = await all.writer("a");
  await readAll(writer, [by("parts", "p,1", "1")]);
  const operations = numbers.map((n) => by("parts", `p,${n}`, String(n % 5 === 0 ? n + 1 : n)));
  const { outcomes, sessions } = await counted(() => readAll(writer, operations), masters.find("a"));
  expect(sessions).toBeLessThan(5);
  expect(outcomes.map(told)).toEqual(
    numbers.map((n) => (n % 5 === 0 ? "row-not-found" : { a: `p,${n}`, b: n, c: `of ${n}` })),
  );
  const [first, second] = outcomes.filter((outcome) => "results" in outcome);
  expect(first?.results[0]?.keys).toEqual([["p,1", "1"]]);
  expect(second?.session.positions.length).toBeGreaterThan(0);
  const missing = outcomes[4] as Problem;
  expect([missing.status, missing.facts.region]).toEqual([404, "a"]);
});

test("keys in any spelling, one twice, and what is no key at all", async () => {
  const { writer } = await all.writer("a");
  const id = (n: number): string => `0197E0C4-7F2A-7000-8000-0000000000${n.toString(16).padStart(2, "0")}`;
  const keys = [
    id(1),
    id(2).toLowerCase(),
    id(10),
    id(10),
    "nonsense",
    id(3).replaceAll("-", ""),
    id(200),
    "\0",
  ];
  const found = await readAll(
    writer,
    keys.map((key) => by("things", key)),
  );
  expect(
    found.map((each) =>
      "results" in each ? Number(JSON.parse(each.results[0]?.rows[0] ?? "").ord) : told(each),
    ),
  ).toEqual([1, 2, 10, 10, "value-invalid", 3, "row-not-found", "value-invalid"]);
  const wrong = await readAll(writer, [by("things", id(1)), by("things", id(1), "x"), by("things", id(2))]);
  expect(wrong.map(codeOf)[1]).toBe("parameter-invalid");
  expect(wrong.filter((each) => "results" in each)).toHaveLength(2);
});

test("columns that are wanted, and none", async () => {
  const { writer } = await all.writer("a");
  const some = await readAll(
    writer,
    numbers.map((n) => select("parts", { key: [`p,${n}`, String(n)], columns: ["c"] })),
  );
  expect(some.map(told)).toEqual(numbers.map((n) => ({ c: `of ${n}` })));
  const unknown = await readAll(
    writer,
    numbers.map((n) => select("parts", { key: [`p,${n}`, String(n)], columns: ["z"] })),
  );
  expect(new Set(unknown.map(told))).toEqual(new Set(["column-unknown"]));
});

test("rows that are too long to come together come one by one", async () => {
  const { writer } = await all.writer("a");
  for (let round = 0; round < 2; round += 1) {
    const found = await readAll(
      writer,
      numbers.map((n) => by("long", String(n))),
    );
    for (const [at, outcome] of found.entries()) {
      const { body } = told(outcome) as { body: string };
      expect([body.length, body.slice(1_000_000)]).toEqual([
        1_000_000 + String(at + 1).length,
        String(at + 1),
      ]);
    }
  }
});

test("a table that was altered meanwhile is read as it is now", async () => {
  const { writer } = await all.writer("a");
  const operations = numbers.map((n) => by("altered", String(n)));
  expect((await readAll(writer, operations)).map(told)).toEqual(numbers.map((n) => ({ id: n, n })));
  await all.regions.db("a").query("ALTER TABLE altered ALTER COLUMN n TYPE text USING 'n' || n");
  expect((await readAll(writer, operations)).map(told)).toEqual(numbers.map((n) => ({ id: n, n: `n${n}` })));
});

test("a session reads what it has written, also among others", async () => {
  const { writer } = await all.writer("a");
  await Promise.all(
    numbers.map(async (n) => {
      const id = `own${n}`;
      const { session } = await writer.write(request([insert("free", { id, body: `${n}` })]));
      const { signal } = new AbortController();
      const read = await writer.read({ operations: [by("free", id)], session, waitMs: 0, signal });
      expect(rowsOf(read.results)).toEqual([{ id, body: `${n}` }]);
      expect(read.region).toBe("a");
    }),
  );
});

test("a connection that breaks: each goes on at the next master", async () => {
  const { writer, masters } = await all.writer("a");
  await all.regions.agents();
  await writer.write(
    request([insert("free", { id: "broken", body: "x" })], { durable: { regions: 2 }, waitMs: 20_000 }),
  );
  all.line("a").setConditions({ latencyMs: 300 });
  const reading = readAll(
    writer,
    numbers.map(() => by("free", "broken")),
  );
  await eventually(() => (masters.find("a")?.connections.inFlight ?? 0) > 0, { everyMs: 1 });
  all.line("a").cut({ mode: "reset" });
  for (const outcome of await reading) expect(told(outcome)).toEqual({ id: "broken", body: "x" });
});
