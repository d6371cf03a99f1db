import { describe, expect, test } from "vitest";
import { problemsOfDurable } from "./durable.ts";
import { whileDrained } from "./judge.ts";
import { outranked, problemsOf } from "./oracle.ts";
import { keyText, type Accepted, type Attempt, type Done, type Effect } from "./record.ts";
import { episodesOf } from "./schedule.ts";
import { problemsOfPair } from "./transactions.ts";
import { tooLong, waitsOf, type Death, type WaitFacts } from "./waits.ts";

/** That the judge of the failover schedule sees each kind of fault: without this, its silence would say nothing. */

const attempt = (change: Partial<Attempt> = {}): Attempt => ({
  endpoint: "a",
  startMs: 0,
  endMs: 1,
  status: 200,
  code: null,
  retryable: false,
  hasRetryAfter: false,
  detail: "",
  ...change,
});
const failed = (code: string, change: Partial<Attempt> = {}): Attempt =>
  attempt({ status: 503, code, retryable: true, hasRetryAfter: true, ...change });
const broke = failed("broke", { status: null, retryable: false });
const unknown = failed("outcome-unknown", { status: 504, retryable: false });

const accepted = (change: Partial<Accepted> = {}): Accepted => ({
  region: "a",
  takeover: false,
  base: 0n,
  version: 10n,
  key: keyText("k"),
  replayed: false,
  onceOnly: null,
  durable: null,
  ...change,
});

const done = (change: Partial<Done> = {}): Done => ({
  token: "t",
  kind: "update",
  table: "plain",
  owner: null,
  id: "k",
  idempotencyKey: null,
  ifMatch: null,
  durable: null,
  waitMs: null,
  transaction: null,
  attempts: [attempt()],
  ending: "acknowledged",
  accepted: change.ending === undefined || change.ending === "acknowledged" ? accepted() : null,
  ...change,
});
const keyed = { idempotencyKey: "once" } as const;

const effect = (change: Partial<Effect> = {}): Effect => ({
  region: "a",
  xid: "700",
  op: "update",
  table: "plain",
  key: keyText("k"),
  base: 0n,
  version: 10n,
  prev: 5n,
  content: { token: "t" },
  ...change,
});
const elsewhere = effect({ region: "b", version: 11n });
const gone = effect({ op: "delete", content: null });

const wrong = (request: Done, ...effects: readonly Effect[]): string[] =>
  problemsOf({ requests: [request], missed: [] }, effects);
const tells = (text: string): unknown => [expect.stringContaining(text)];

describe("what was answered is what was done", () => {
  test("a 2xx without its effect is told, also where another write has that place", () => {
    expect(wrong(done(), effect())).toEqual([]);
    expect(wrong(done())).toEqual(tells("has no such effect"));
    expect(wrong(done({ accepted: accepted({ version: 9n }) }), effect())).toEqual(
      tells("has no such effect"),
    );
    const other = done({ token: "u" });
    expect(
      problemsOf({ requests: [done(), other], missed: [] }, [effect({ content: { token: "u" } })]),
    ).toEqual(tells("has no such effect"));
    expect(wrong(done({ kind: "delete" }), gone)).toEqual([]);
    expect(wrong(done({ kind: "delete" }), effect())).toEqual(tells("has no such effect"));
  });

  test("what was done twice is told, but for what was said to be possible with a key", () => {
    expect(wrong(done(), effect(), elsewhere)).toEqual(tells("done 2 times"));
    expect(wrong(done(), effect(), effect({ xid: "701", version: 12n }))).toEqual(tells("done 2 times"));
    expect(wrong(done(keyed), effect(), elsewhere)).toEqual(tells("done 2 times"));
    const told = done({ ...keyed, accepted: accepted({ onceOnly: false }) });
    expect(wrong(told, effect(), elsewhere)).toEqual([]);
    expect(wrong(told, effect(), effect({ xid: "701", version: 12n }))).toEqual(tells("done 2 times"));
    const inserted = done({ ...keyed, kind: "insert", id: null });
    expect(wrong(inserted, effect(), elsewhere)).toEqual([]);
    expect(wrong(inserted, effect(), { ...elsewhere, key: keyText("other") })).toEqual(tells("done 2 times"));
    const made = done({ kind: "insert", id: null });
    expect(wrong(made, effect(), elsewhere)).toEqual([]);
    expect(wrong(made, effect(), { ...elsewhere, key: keyText("other") })).toEqual(tells("done 2 times"));
    expect(wrong({ ...made, id: "k" }, effect(), elsewhere)).toEqual(tells("done 2 times"));
    // One transaction may touch its row more than once.
    expect(wrong(done(), effect(), effect())).toEqual([]);
  });

  test("what was refused or given up, and done all the same, is told", () => {
    const refused = done({
      ending: "refused",
      attempts: [failed("row-not-found", { status: 404, retryable: false })],
    });
    expect(wrong(refused)).toEqual([]);
    expect(wrong(refused, effect())).toEqual(tells("done all the same"));
    const over = done({ ending: "given up", attempts: [failed("no-master")] });
    expect(wrong(over)).toEqual([]);
    expect(wrong(over, effect())).toEqual(tells("done all the same"));
    expect(wrong({ ...over, ...keyed, attempts: [broke, failed("no-master")] }, effect())).toEqual([]);
  });

  test("an outcome that nobody knows may be one or none, and no more", () => {
    for (const attempts of [[broke], [unknown]]) {
      const request = done({ ending: "unknown", attempts });
      expect(wrong(request)).toEqual([]);
      expect(wrong(request, effect())).toEqual([]);
      expect(wrong(request, effect(), elsewhere)).toEqual(tells("done 2 times"));
    }
    const deleting = done({ kind: "delete", ending: "unknown", attempts: [unknown] });
    expect(wrong(deleting, gone)).toEqual([]);
    expect(wrong(deleting, gone, { ...gone, region: "b" })).toEqual(tells("was deleted 2 times more"));
    expect(wrong(done(), effect(), { ...gone, version: 11n })).toEqual(tells("was deleted 1 times more"));
  });

  test("an error that is not marked retryable is told, and one that is although it must not be sent again", () => {
    const after = (attempt: Attempt): string[] => wrong(done({ attempts: [attempt] }), effect());
    expect(after(failed("database-unavailable"))).toEqual([]);
    expect(after(failed("database-unavailable", { retryable: false }))).toEqual(
      tells("not to be sent again"),
    );
    expect(after(failed("internal", { status: 500, retryable: false }))).toEqual(
      tells("not to be sent again"),
    );
    expect(after(failed("no-master", { hasRetryAfter: false }))).toEqual(tells("without Retry-After"));
    expect(after(failed("version-mismatch", { status: 412, retryable: false }))).toEqual(
      tells("version-mismatch"),
    );
    expect(after({ ...unknown, retryable: true })).toEqual(tells("to be sent again"));
    expect(wrong(done({ ...keyed, attempts: [unknown] }), effect())).toEqual(tells("not to be sent again"));
    expect(after(failed("silent", { status: null }))).toEqual(tells("did not answer"));
  });

  test("a write upon another version than If-Match named is told, and an effect that nobody asked for", () => {
    expect(wrong(done({ ifMatch: 5n }), effect())).toEqual([]);
    expect(wrong(done({ ifMatch: 4n }), effect())).toEqual(tells("wrote upon 5 instead of 4"));
    expect(wrong(done(), effect(), effect({ content: { token: "?" }, version: 12n }))).toEqual(
      tells("nobody asked for ?"),
    );
  });

  test("a row that a session misses must have been deleted after it was seen", () => {
    const missed = [{ client: "me", table: "plain", key: keyText("k"), base: 0n, version: 9n }];
    expect(problemsOf({ requests: [done({ kind: "delete" })], missed }, [gone])).toEqual([]);
    expect(problemsOf({ requests: [done()], missed }, [effect()])).toEqual(tells("is not there"));
    const later = missed.map((miss) => ({ ...miss, version: 11n }));
    expect(problemsOf({ requests: [done({ kind: "delete" })], missed: later }, [gone])).toEqual(
      tells("is not there"),
    );
  });

  test("accepted writes that are in the log are counted", () => {
    const entry = {
      table: "plain",
      key: keyText("k"),
      loser: 10n,
      type: "update_origin_differs",
      content: null,
    };
    expect(outranked([done(), done({ ending: "unknown" })], [entry])).toBe(1);
    expect(outranked([done()], [{ ...entry, loser: 9n }])).toBe(0);
  });
});

describe("transactions", () => {
  const name = "t";
  const first = done({ token: "t/0", transaction: name });
  const second = done({
    token: "t/1",
    transaction: name,
    id: "l",
    accepted: accepted({ key: keyText("l") }),
  });
  const wroteFirst = effect({ content: { token: "t/0" } });
  const wroteSecond = effect({ content: { token: "t/1" }, key: keyText("l") });
  const judged = (requests: readonly Done[], ...effects: readonly Effect[]): string[] =>
    problemsOf({ requests, missed: [] }, effects);

  test("one that was done in part is told, whatever was answered", () => {
    expect(judged([first, second], wroteFirst, wroteSecond)).toEqual([]);
    expect(judged([first, second], wroteFirst, { ...wroteSecond, xid: "701" })).toEqual([
      expect.stringContaining("done in part by a 700, without update t/1"),
      expect.stringContaining("done in part by a 701, without update t/0"),
    ]);
    const lost = { ending: "unknown", attempts: [unknown], accepted: null } as const;
    const undecided = [first, second].map((part) => ({ ...part, ...lost }));
    expect(judged(undecided)).toEqual([]);
    expect(judged(undecided, wroteFirst, wroteSecond)).toEqual([]);
    expect(judged(undecided, wroteSecond)).toEqual(tells("done in part"));
  });

  test("a delete in one belongs to it too", () => {
    const deleting = done({ ...second, kind: "delete" });
    const deleted = { ...gone, key: keyText("l") };
    expect(judged([first, deleting], wroteFirst, deleted)).toEqual([]);
    expect(judged([first, deleting], wroteFirst, { ...deleted, xid: "701" })).toEqual(
      tells("in part by a 700"),
    );
  });

  test("what one operation may be refused for, all may; and nothing was done", () => {
    const attempts = [failed("row-not-found", { status: 404, retryable: false })];
    const refused = [first, done({ ...second, kind: "insert" })].map((part) => ({
      ...part,
      attempts,
      ending: "refused" as const,
      accepted: null,
    }));
    expect(judged(refused)).toEqual([]);
    expect(judged(refused, wroteFirst, wroteSecond)).toEqual([
      expect.stringContaining("done all the same"),
      expect.stringContaining("done all the same"),
    ]);
    expect(judged(refused.slice(1))).toEqual(tells("not to be sent again"));
  });

  test("one that was done twice must have been said to be possible, its new rows too", () => {
    const inserting = done({ token: "t/0", transaction: name, kind: "insert", id: null, ...keyed });
    expect(judged([inserting], wroteFirst, { ...wroteFirst, region: "b", version: 11n })).toEqual(
      tells("done 2 times"),
    );
  });

  test("of a pair both rows are of one transaction", () => {
    const rows = (...tokens: string[]) => tokens.map((token) => ({ token }));
    expect(problemsOfPair(rows("t/0", "t/3"), true)).toEqual([]);
    expect(problemsOfPair([], false)).toEqual([]);
    for (const torn of [rows("t/0", "u/1"), rows("t/0"), []])
      expect(problemsOfPair(torn, true)).toEqual(tells("not one whole transaction"));
    expect(problemsOfPair(rows("t/0"), false)).toEqual(tells("t/0"));
  });
});

describe("writes that are to be in further regions", () => {
  const durable = done({ durable: 1, accepted: accepted({ durable: 1 }) });

  test("an answer that does not say so is told; 504 is not to be sent again, and it is done", () => {
    expect(wrong(durable, effect())).toEqual([]);
    expect(wrong({ ...durable, accepted: accepted() }, effect())).toEqual(tells("not said to be in 1"));
    const late = failed("not-durable-yet", { status: 504, retryable: false });
    const committed = done({ durable: 2, ending: "committed", attempts: [late], accepted: accepted() });
    expect(wrong(committed, effect())).toEqual([]);
    expect(wrong(committed)).toEqual(tells("has no such effect"));
    expect(wrong({ ...committed, attempts: [{ ...late, retryable: true }] }, effect())).toEqual(
      tells("to be sent again"),
    );
    expect(wrong({ ...committed, durable: null }, effect())).toEqual(tells("not to be sent again"));
  });

  test("where it cannot be is told: its own region and those with less do not count, nor those that are away against it", () => {
    const held = (b: bigint | null, c: bigint | null) => [
      { region: "a", version: 10n },
      { region: "b", version: b },
      { region: "c", version: c },
    ];
    const two = { ...durable, durable: 2 };
    for (const fine of [held(10n, 0n), held(0n, 12n), held(null, 0n)])
      expect(problemsOfDurable(durable, fine)).toEqual([]);
    expect(problemsOfDurable(durable, held(9n, 0n))).toEqual(tells("none can have 10"));
    expect(problemsOfDurable(two, held(10n, null))).toEqual([]);
    expect(problemsOfDurable(two, held(10n, 9n))).toEqual(tells("only b can have 10"));
  });
});

describe("how long writes were not accepted", () => {
  const withinMs = 3_000;
  const death: Death = { region: "b", how: "kill server", atMs: 10_000, deadMs: 10_050 };
  const lane = { endpoint: "a", table: "plain", owner: null };
  const write = (startMs: number, endMs: number, region = "c"): Done =>
    done({ attempts: [failed("no-master"), attempt({ startMs, endMs })], accepted: accepted({ region }) });
  const waited = (requests: readonly Done[], change: Partial<WaitFacts> = {}): number[] =>
    waitsOf({ deaths: [death], away: [], lanes: [lane], withinMs, requests, ...change }).map(({ ms }) => ms);

  test("from the death to the first acceptance that the dead master cannot have given", () => {
    expect(waited([write(9_000, 9_500), write(9_900, 10_040, "b"), write(10_100, 12_500)])).toEqual([2_500]);
    expect(waited([write(9_900, 10_700), write(10_100, 12_500)])).toEqual([700]);
    expect(waited([write(10_900, 11_000, "b")])).toEqual([1_000]);
  });

  test("one that is too late is told, and one that never comes", () => {
    const late = waitsOf({
      deaths: [death],
      away: [],
      lanes: [lane],
      withinMs,
      requests: [write(10_100, 13_100)],
    });
    expect(tooLong(late, withinMs)).toEqual(tells("after 3.10 s"));
    expect(tooLong(late, 3_200)).toEqual([]);
    expect(waited([write(9_000, 9_500)])).toEqual([Infinity]);
  });

  test("each endpoint, table and owner counts, and the slowest is told", () => {
    const owned = { ...lane, owner: "b" };
    const requests = [write(10_100, 10_200), { ...write(10_100, 12_900), owner: "b" }];
    const waits = waitsOf({ deaths: [death], away: [], lanes: [lane, owned], withinMs, requests });
    expect(waits).toEqual([{ death, lane: owned, ms: 2_900, first: requests[1] }]);
  });

  test("an endpoint that is away itself does not count", () => {
    const away = [{ endpoint: "a", fromMs: 9_990, toMs: 20_000 }];
    expect(waited([write(21_000, 21_100)], { away })).toEqual([]);
    expect(
      waited([write(21_000, 21_100)], { away: [{ ...away[0], endpoint: "c", fromMs: 0, toMs: null }] }),
    ).toEqual([11_100]);
    expect(
      waited([write(10_900, 11_000)], { away: [{ endpoint: "a", fromMs: 12_000, toMs: null }] }),
    ).toEqual([1_000]);
  });

  test("where another master dies meanwhile, the time begins anew; later deaths change nothing", () => {
    const second = { ...death, region: "c", atMs: 12_000, deadMs: 12_050 };
    expect(
      waited([write(10_100, 10_400, "a"), write(12_100, 12_300, "a")], { deaths: [death, second] }),
    ).toEqual([400, 300]);
    const requests = [write(12_100, 14_500, "a")];
    expect(waited(requests, { deaths: [death, second] })).toEqual([2_500, 2_500]);
    expect(
      waited([write(15_100, 15_200, "a")], { deaths: [death, { ...second, atMs: 15_000, deadMs: 15_050 }] }),
    ).toEqual([5_200, 200]);
  });
});

test("a schedule leaves one region alone at any time, and has every kind of fault", () => {
  for (const seed of [1, 2, 3]) {
    const episodes = episodesOf(seed, ["a", "b", "c"]).take(9).toArray();
    expect(new Set(episodes.flatMap(({ faults }) => faults.map(({ kind }) => kind))).size).toBe(7);
    for (const { faults } of episodes)
      expect(new Set(faults.map(({ region }) => region)).size).toBeLessThan(3);
  }
});

describe("while a region is drained", () => {
  const drains = [{ fromMs: 1_000, toMs: 20_000 }];
  const problems = (change: Partial<Attempt>, waitMs: number | null = null): string[] =>
    whileDrained(
      [{ attempts: [failed("no-master", { startMs: 2_000, endMs: 2_001, ...change })], waitMs }],
      drains,
    );
  const notYet = { code: "not-durable-yet", status: 504 };

  test("nothing fails, answered or not; before and after it may", () => {
    expect(problems({})).toHaveLength(1);
    expect(problems({ code: "broke", status: null })).toHaveLength(1);
    expect(problems({ startMs: 999 })).toEqual([]);
    expect(problems({ endMs: 20_001 })).toEqual([]);
    expect(problems({ code: null, status: 200 })).toEqual([]);
    expect(problems({ code: "row-not-found", status: 404 })).toEqual([]);
  });

  test("a wait for further regions may have been too short for a busy machine, but ends neither early nor in vain", () => {
    expect(problems({ ...notYet, endMs: 4_000 }, 2_000)).toEqual([]);
    expect(problems({ ...notYet, endMs: 5_500 }, 2_000)).toEqual([]);
    expect(problems({ ...notYet, endMs: 3_999 }, 2_000)).toHaveLength(1);
    expect(problems({ ...notYet, endMs: 5_000 }, 3_000)).toHaveLength(1);
    expect(problems({ ...notYet, endMs: 5_000 })).toHaveLength(1);
  });
});
