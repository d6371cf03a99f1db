import { describe, expect, test } from "vitest";
import { outranked, problemsOf } from "./oracle.ts";
import { keyText, type Accepted, type Attempt, type Done, type Effect } from "./record.ts";
import { episodesOf } from "./schedule.ts";
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
