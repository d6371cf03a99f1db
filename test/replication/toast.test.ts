import { expect, test } from "vitest";
import { connect } from "../../src/postgres/client.ts";
import { fetchFrom, FetchedTooOld, type FetchStates } from "../../src/replication/fetch.ts";
import { batchOf, MergeRegion, type Given } from "./merge-fixture.ts";
import { at, mergeNow, row, tombstone } from "./merge-helpers.ts";

const schema = `CREATE TABLE t (id text PRIMARY KEY, small text, big text)`;

/** A target, a source, and a fetcher from the source that counts its calls. */
const setUp = async () => {
  const source = await MergeRegion.create({ schema, regionId: 2 });
  const target = await MergeRegion.create({ schema });
  const client = await connect(source.db.url, { applicationName: "fetch" });
  const fetched: number[] = [];
  const fetch: FetchStates = async (wanted) => {
    fetched.push(wanted.count);
    return fetchFrom({ client, pause: async () => undefined, attempts: 3 })(wanted);
  };
  const at1 = await target.session();
  const at2 = await source.session({ origin: 3 });
  const whole = (version: bigint, fields: { small: string; big: string }, stamp = {}): Given => ({
    state: row(version, stamp),
    fields: { id: "a", ...fields },
  });
  const partial = (version: bigint, small: string, stamp = {}): Given => ({
    state: row(version, stamp),
    fields: { id: "a", small },
    unchanged: ["big"],
  });
  return {
    fetch,
    fetched,
    whole,
    partial,
    target,
    toTarget: (...given: Given[]) =>
      mergeNow(at1, batchOf(target.table("t"), given), { fetch, careful: given.length > 9 }),
    carefully: (given: Given, fetcher = fetch) =>
      mergeNow(at1, batchOf(target.table("t"), [given]), { fetch: fetcher, careful: true }),
    toSource: (given: Given) => mergeNow(at2, batchOf(source.table("t"), [given])),
    rows: () => target.db.query("SELECT small, big, cg_version::text AS version FROM t"),
    conflicts: () => target.db.query("SELECT loser_version::text AS loser, loser_row FROM coregent.conflict"),
    [Symbol.asyncDispose]: async () => {
      await client.end();
      await source[Symbol.asyncDispose]();
      await target[Symbol.asyncDispose]();
    },
  };
};

const big = "B".repeat(10_000);
const other = "C".repeat(10_000);

test("a row that lacks an unchanged value takes the local one where it was written upon the local row", async () => {
  await using s = await setUp();
  await s.toTarget(s.whole(at(1, 2), { small: "1", big }));
  await s.toTarget(s.partial(at(2, 2), "2", { prev: at(1, 2) }));
  expect(await s.rows()).toEqual([{ small: "2", big, version: String(at(2, 2)) }]);
  expect(s.fetched).toEqual([]);
  expect(await s.conflicts()).toEqual([]);
});

test("with a third region's write between, the row is fetched whole, never mixed (FAULTS 26)", async () => {
  await using s = await setUp();
  // Region 3 wrote upon the first version; region 2 has not seen it and wrote upon the first too.
  await s.toTarget(s.whole(at(1, 2), { small: "1", big }));
  await s.toTarget(s.whole(at(2, 3), { small: "3", big: other }, { prev: at(1, 2), seen: [at(1, 2)] }));
  const change = { prev: at(1, 2) };
  await s.toSource(s.whole(at(3, 2), { small: "2", big }, change));
  const report = await s.toTarget(s.partial(at(3, 2), "2", change));
  expect(await s.rows()).toEqual([{ small: "2", big, version: String(at(3, 2)) }]);
  expect(s.fetched).toEqual([1]);
  expect(report.mergeThrough).toBeGreaterThan(0n);
  expect(await s.conflicts()).toMatchObject([{ loser: String(at(2, 3)), loser_row: { big: other } }]);
});

test("a row that is not there at all is fetched; so is a key that was deleted meanwhile", async () => {
  await using s = await setUp();
  await s.toSource(s.whole(at(2, 2), { small: "2", big }, { prev: at(1, 2) }));
  await s.toTarget(s.partial(at(2, 2), "2", { prev: at(1, 2) }));
  expect(await s.rows()).toMatchObject([{ big }]);
  await s.toSource({ state: tombstone(at(5, 2), { prev: at(4, 2) }), fields: { id: "a" } });
  await s.toTarget(s.partial(at(4, 2), "4", { prev: at(3, 2) }));
  expect(await s.rows()).toEqual([]);
  expect(await s.conflicts()).toEqual([]);
});

test("a tombstone here is reported once, though both a row and a tombstone are fetched that have not seen it", async () => {
  await using s = await setUp();
  await s.toTarget({ state: tombstone(at(3, 3), { prev: at(2, 3) }), fields: { id: "a" } });
  await s.toSource({ state: tombstone(at(4, 2), { prev: at(1, 2) }), fields: { id: "a" } });
  await s.toSource(s.whole(at(6, 2), { small: "6", big }, { prev: at(5, 2) }));
  await s.toTarget(s.partial(at(6, 2), "6", { prev: at(5, 2) }));
  expect(await s.rows()).toMatchObject([{ small: "6", big }]);
  expect(await s.conflicts()).toMatchObject([{ loser: String(at(3, 3)) }]);
});

test("nothing is fetched, and nothing reported, for a row that has lost", async () => {
  await using s = await setUp();
  await s.toTarget(s.whole(at(9, 3), { small: "9", big }));
  await s.toTarget(s.partial(at(2, 2), "2", { prev: at(1, 2) }));
  expect(s.fetched).toEqual([]);
  expect(await s.rows()).toMatchObject([{ small: "9" }]);
  expect(await s.conflicts()).toEqual([]);
});

test("a source that shows older rows than it has sent is asked again, and then given up", async () => {
  await using s = await setUp();
  await s.toSource(s.whole(at(1, 2), { small: "1", big }));
  await expect(s.toTarget(s.partial(at(2, 2), "2", { prev: at(1, 2) }))).rejects.toThrow(FetchedTooOld);
  expect(await s.rows()).toEqual([]);
});

test("one that does not fit is fetched whole and set aside", async () => {
  await using s = await setUp();
  await s.target.db.query("ALTER TABLE t ADD CHECK (small <> 'bad')");
  await s.toTarget(s.whole(at(1, 2), { small: "1", big }));
  await s.toSource(s.whole(at(2, 2), { small: "bad", big }, { prev: at(1, 2) }));
  expect(await s.carefully(s.partial(at(2, 2), "bad", { prev: at(1, 2) }))).toMatchObject({ quarantined: 1 });
  expect(await s.target.db.query("SELECT payload ->> 'big' AS big FROM coregent.quarantine")).toEqual([
    { big },
  ]);
});
