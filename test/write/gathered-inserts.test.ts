import { setImmediate } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { microsOf, pack } from "../../conflict/version.ts";
import type { Problem } from "../../src/problems.ts";
import type { RegionalWriter, WriteOutcome, WriteRequest } from "../../src/write/writer.ts";
import { eventually } from "../support/eventually.ts";
import { healths, WritingRegions } from "./masters-fixture.ts";
import { codeOf, insert, request, rowsOf } from "./writer-requests.ts";

/** New rows of concurrent requests, one statement of many. */

let all: WritingRegions;

beforeAll(async () => {
  all = await WritingRegions.create(`
    CREATE TABLE public.named (id text PRIMARY KEY, name text UNIQUE CHECK (name <> 'unfit'));
    CREATE TABLE public.counted (id text PRIMARY KEY, body text);`);
  await all.regions.agents();
});
afterEach(() => all.calm());
afterAll(() => all[Symbol.asyncDispose]());

const made = (table: string, row: Record<string, string>, change: Partial<WriteRequest> = {}): WriteRequest =>
  request([{ ...insert(table, row), keysMade: true } as ReturnType<typeof insert>], change);

/** One for each, at once; what each was answered. */
const writeAll = (
  writer: RegionalWriter,
  requests: readonly WriteRequest[],
): Promise<(WriteOutcome | Problem)[]> =>
  Promise.all(requests.map((each) => writer.write(each).catch((error: unknown) => error as Problem)));

const numbered = (prefix: string, count: number): string[] =>
  Array.from({ length: count }, (_, n) => `${prefix}${n}`);

const done = (outcome: WriteOutcome | Problem | undefined): WriteOutcome => {
  if (outcome === undefined || !("results" in outcome)) throw new Error(`refused: ${codeOf(outcome)}`);
  return outcome;
};

/** In how many transactions rows came to region a. */
const transactions = async (table: string, prefix: string): Promise<number> => {
  const [row] = await all.regions
    .db("a")
    .query(`SELECT count(DISTINCT xmin::text)::int AS n FROM public.${table} WHERE starts_with(id, $1)`, [
      prefix,
    ]);
  return Number(row?.["n"]);
};

test("many at once are few transactions, each is answered its own row and version, and reads it elsewhere", async () => {
  const { writer } = await all.writer("a");
  const { writer: elsewhere } = await all.writer("c");
  const ids = numbered("m", 40);
  const outcomes = await writeAll(
    writer,
    ids.map((id) => made("free", { id, body: `of ${id}` })),
  );
  expect(await transactions("free", "m")).toBeLessThan(6);
  for (const [at, id] of ids.entries()) {
    const outcome = done(outcomes[at]);
    expect(outcome).toMatchObject({ region: "a", takeover: false, replayed: false, onceOnly: null });
    expect(rowsOf(outcome.results)).toEqual([{ id, body: `of ${id}` }]);
    expect(outcome.results[0]?.created).toEqual([true]);
    const [row] = await all.regions.db("a").query("SELECT cg_version AS v FROM free WHERE id = $1", [id]);
    expect(String(outcome.version)).toBe(String(row?.["v"]));
  }
  const { session } = done(outcomes[39]);
  const all40 = { table: "free", columns: null, filters: [], order: [], limit: 1, offset: 0, after: null };
  const operations = ids.map((id) => ({ ...all40, kind: "select", key: [id], count: false }) as const);
  const { signal } = new AbortController();
  // The token of any of them is one of them all.
  const read = await elsewhere.read({ operations, session, waitMs: 10_000, signal });
  expect(read.region).toBe("c");
});

test("a bad row is refused by itself: a value, a check, a key that is taken", async () => {
  const { writer } = await all.writer("a");
  await writer.write(made("named", { id: "taken", name: "first" }));
  const bad: Readonly<Record<number, Record<string, string>>> = {
    5: { id: "bad5", name: "unfit" },
    9: { id: "taken", name: "another" },
    13: { id: "bad13", name: "first" },
    17: { id: "bad17", name: "\0" },
  };
  const ids = numbered("g", 20);
  const outcomes = await writeAll(
    writer,
    ids.map((id, at) => made("named", bad[at] ?? { id, name: id })),
  );
  const codes = outcomes.map((outcome) => ("results" in outcome ? "done" : codeOf(outcome)));
  expect([codes[5], codes[9], codes[13], codes[17]]).toEqual([
    "check-violation",
    "unique-violation",
    "unique-violation",
    "value-invalid",
  ]);
  for (const [at, id] of ids.entries()) {
    if (bad[at] === undefined) expect(rowsOf(done(outcomes[at]).results)).toEqual([{ id, name: id }]);
  }
  const [row] = await all.regions.db("a").query("SELECT count(*)::int AS n FROM named WHERE id LIKE 'g%'");
  expect(row).toEqual({ n: 16 });
});

test("a row that waits for a lock does not hold up the others", async () => {
  const { writer } = await all.writer("a");
  const blocker = await all.regions.db("a").connect();
  await blocker.query("BEGIN; INSERT INTO named (id, name) VALUES ('blocker', 'wanted')");
  const waiting = writer.write(made("named", { id: "w", name: "wanted" }));
  let over = false;
  const ended = waiting.finally(() => {
    over = true;
  });
  const others = numbered("l", 20).map((id) => made("named", { id, name: id }));
  const alsoWaiting = writer.write(made("named", { id: "w2", name: "wanted" })).catch(codeOf);
  for (const outcome of await writeAll(writer, others)) expect(done(outcome).region).toBe("a");
  expect(over).toBe(false);
  await blocker.query("ROLLBACK");
  const both = await Promise.all([ended.then(() => "done", codeOf), alsoWaiting]);
  expect(both.map((each) => (typeof each === "string" ? each : "done")).sort()).toEqual([
    "done",
    "unique-violation",
  ]);
});

test("an answer that is lost: each goes on under its key, and is one row", async () => {
  const { writer, masters } = await all.writer("a");
  await writeAll(
    writer,
    numbered("before", 20).map((id) => made("free", { id, body: "x" })),
  );
  const ids = numbered("u", 20);
  all.line("a").setConditions({ latencyMs: 150 });
  const writing = writeAll(
    writer,
    ids.map((id) => made("free", { id, body: id })),
  );
  // They are committed, and the answer is still on its way.
  await eventually(async () => (await transactions("free", "u")) >= 2, { everyMs: 5 });
  all.line("a").resetConnections();
  all.line("a").setConditions({ latencyMs: 0 });
  for (const [at, outcome] of (await writing).entries()) {
    expect(done(outcome).replayed).toBe(false);
    expect(rowsOf(done(outcome).results)).toEqual([{ id: ids[at], body: ids[at] }]);
  }
  await healths(masters, { a: "healthy" });
  await all.regions.equal();
  for (const region of all.regions.names) {
    const [row] = await all.regions
      .db(region)
      .query("SELECT count(*)::int AS n FROM free WHERE id LIKE 'u%'");
    expect(row).toEqual({ n: 20 });
  }
});

test("all are stamped above what one of them has seen; what is far ahead is served by itself", async () => {
  const { writer } = await all.writer("a");
  const ahead = (ms: number) => ({
    positions: [],
    version: pack(BigInt(Date.now() + ms) * 1000n, 3),
  });
  const [near, far] = [ahead(900), ahead(3_600_000)];
  const outcomes = await writeAll(
    writer,
    numbered("s", 20).map((id, at) => {
      const session = at === 7 ? near : at === 11 ? far : null;
      return made("free", { id, body: "x" }, { session });
    }),
  );
  const versions = outcomes.map((outcome) => done(outcome).version);
  expect(versions[7]).toBeGreaterThan(near.version);
  expect(versions[11]).toBeGreaterThan(far.version);
  for (const [at, version] of versions.entries()) {
    if (at !== 11) expect(microsOf(version) - microsOf(near.version)).toBeLessThan(60_000_000n);
  }
});

test("beyond the bound on what waits for sessions they are refused there, and go elsewhere", async () => {
  const { writer, masters } = await all.writer("a", { settings: { maxInFlight: 1, maxQueue: 8 } });
  const connections = masters.find("a")?.connections;
  const blocker = await all.regions.db("a").connect();
  await blocker.query("BEGIN; INSERT INTO named (id, name) VALUES ('blocker', 'q')");
  const waiting = writer.write(made("named", { id: "q", name: "q" }));
  await eventually(() => connections?.inFlight === 1);
  const some = writeAll(
    writer,
    numbered("few", 10).map((id) => made("named", { id, name: id })),
  );
  await eventually(() => connections?.queued === 10);
  const rest = await writeAll(
    writer,
    numbered("many", 20).map((id) => made("named", { id, name: id })),
  );
  for (const outcome of rest) expect(done(outcome).region).not.toBe("a");
  await blocker.query("ROLLBACK");
  for (const outcome of [await waiting, ...(await some)]) expect(done(outcome).region).toBe("a");
  expect([connections?.queued, connections?.inFlight]).toEqual([0, 0]);
});

test("a table with a trigger of the application's is not gathered: it fires once for each request", async () => {
  await all.regions.db("a").query(`
    CREATE TABLE public.fired (n int);
    CREATE FUNCTION public.fire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.fired VALUES (1); RETURN NULL; END';
    CREATE TRIGGER fire AFTER INSERT ON public.counted FOR EACH STATEMENT EXECUTE FUNCTION public.fire()`);
  const { writer } = await all.writer("a");
  await writeAll(
    writer,
    numbered("t", 20).map((id) => made("counted", { id, body: "x" })),
  );
  const [row] = await all.regions.db("a").query("SELECT count(*)::int AS n FROM public.fired");
  expect(row).toEqual({ n: 20 });
  expect(await transactions("counted", "t")).toBe(20);
});

test("a caller who is gone before his row's turn leaves nothing", async () => {
  const { writer } = await all.writer("a");
  const leaving = new AbortController();
  const asked = numbered("c", 10).map((id, at) =>
    made("free", { id, body: "x" }, at === 4 ? { signal: leaving.signal } : {}),
  );
  const writing = writeAll(writer, asked);
  leaving.abort(new Error("gone home"));
  const outcomes = await writing;
  expect(outcomes[4]).toMatchObject({ message: "gone home" });
  await setImmediate();
  const [row] = await all.regions.db("a").query("SELECT count(*)::int AS n FROM free WHERE id ~ '^c[0-9]$'");
  expect(row).toEqual({ n: 9 });
});
