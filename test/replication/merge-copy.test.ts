import { expect, test } from "vitest";
import type { State } from "../../conflict/state.ts";
import { reactionTo } from "../../src/postgres/sqlstate.ts";
import type { MergeSession } from "../../src/replication/merge-session.ts";
import { batchOf, MergeRegion, type Given } from "./merge-fixture.ts";
import { at, blockedSql, mergeNow, row, tombstone } from "./merge-helpers.ts";
import { eventually } from "../support/eventually.ts";

const schema = `
CREATE TABLE t (id text PRIMARY KEY, val text CHECK (val <> 'bad'), sum int GENERATED ALWAYS AS (length(val)) STORED,
                no int GENERATED ALWAYS AS IDENTITY, here text DEFAULT 'default');
CREATE TABLE parts (id text PRIMARY KEY, val text) PARTITION BY LIST (id);
CREATE TABLE parts_a PARTITION OF parts FOR VALUES IN ('k0', 'k1');
CREATE TABLE parts_rest PARTITION OF parts DEFAULT;`;

const int4 = (n: number): Buffer => Buffer.from([0, 0, n >> 8, n & 255]);

const given = (states: readonly State[], fields: (n: number) => Given["fields"]): Given[] =>
  states.map((state, n) => ({ state, fields: { id: `k${n}`, ...fields(n) } }));

const rowsOf = (count: number, region = 2): State[] =>
  Array.from({ length: count }, (_, n) => row(at(n, region)));

/** What COPY statements of the session's were asked of the server since the last call. */
const copies = (session: MergeSession): string[] => {
  const texts: string[] = [];
  const { connection } = session.client as unknown as { connection: { query(text: string): void } };
  const ask = connection.query.bind(connection);
  connection.query = (text) => {
    if (text.startsWith("COPY")) texts.push(text);
    ask(text);
  };
  return texts;
};

test("new keys come by COPY: columns that the source lacks get their defaults, computed ones are computed", async () => {
  await using region = await MergeRegion.create({ schema });
  const session = await region.session();
  const asked = copies(session);
  const values = (n: number) => ({ val: `v${n}`, no: int4(n + 500) });
  const report = await mergeNow(session, batchOf(region.table("t"), given(rowsOf(300), values)));
  expect(report).toMatchObject({ rowsMerged: 300, conflicts: [] });
  expect(asked).toHaveLength(1);
  expect(asked[0]).not.toMatch(/here|sum/);
  const rows = await region.db.query("SELECT val, sum, no, here, cg_version FROM t WHERE id = 'k7'");
  expect(rows).toEqual([{ val: "v7", sum: 2, no: 507, here: "default", cg_version: String(at(7, 2)) }]);
  const parts = batchOf(
    region.table("parts"),
    given(rowsOf(300), () => ({ val: "x" })),
  );
  expect(await mergeNow(session, parts)).toMatchObject({ rowsMerged: 300 });
  expect(await region.db.query("SELECT count(*)::int AS n FROM parts_a")).toEqual([{ n: 2 }]);
  expect(asked).toHaveLength(2);
});

test("rows written upon others come by COPY where a table is being copied", async () => {
  await using region = await MergeRegion.create({ schema });
  const session = await region.session();
  const asked = copies(session);
  const states = rowsOf(300).map((state, n) => (n % 2 === 0 ? { ...state, prev: at(-1, 2) } : state));
  const batch = batchOf(
    region.table("t"),
    given(states, () => ({ val: "x" })),
  );
  expect(await mergeNow(session, batch, { absent: true })).toMatchObject({ rowsMerged: 300, conflicts: [] });
  expect(asked).toHaveLength(1);
  // And where they are there after all, nothing is changed.
  expect(await mergeNow(session, batch, { absent: true })).toMatchObject({ rowsMerged: 0, conflicts: [] });
});

test("where a key is there, all are merged as ever, and COPY is not tried for a while", async () => {
  await using region = await MergeRegion.create({ schema });
  const session = await region.session();
  const table = region.table("t");
  const merge = (states: State[]) =>
    mergeNow(
      session,
      batchOf(
        table,
        given(states, (n) => (states[n]?.kind === "row" ? { val: "x" } : {})),
      ),
    );
  await mergeNow(
    session,
    batchOf(
      table,
      given([row(at(5000, 3))], () => ({ val: "high" })),
    ),
  );
  const asked = copies(session);
  // k0 is refused, and the others come in.
  expect(await merge(rowsOf(300))).toMatchObject({ rowsMerged: 299, conflicts: [{ count: 1 }] });
  expect(asked).toHaveLength(1);
  // A replay: the first is not tried, the second is.
  for (const tried of [1, 2]) {
    expect(await merge(rowsOf(300))).toMatchObject({ rowsMerged: 0, conflicts: [] });
    expect(asked).toHaveLength(tried);
  }
  const dead = Array.from({ length: 300 }, (_, n) => tombstone(at(9000 + n, 2), { prev: at(n, 2) }));
  expect(await merge(dead)).toMatchObject({ tombstonesMerged: 300, rowsSwept: 300 });
  expect(asked).toHaveLength(3);
  expect(await merge(dead)).toMatchObject({ tombstonesMerged: 0, rowsSwept: 0 });
  // Rows that are new here, below their tombstones: swept by the same batch.
  expect(await merge(rowsOf(300, 4))).toMatchObject({ rowsSwept: 300 });
  expect(await region.db.query("SELECT FROM t")).toEqual([]);
});

test("a row that does not fit fails the batch as ever, and alone is set aside", async () => {
  await using region = await MergeRegion.create({ schema });
  const session = await region.session();
  const batch = batchOf(
    region.table("t"),
    given(rowsOf(300), (n) => ({ val: n === 17 ? "bad" : "x" })),
  );
  const failure = await mergeNow(session, batch).catch((error: unknown) => error);
  expect(reactionTo(failure, "merge")).toBe("quarantine");
  for (let round = 0; round < 3; round++) {
    const report = await mergeNow(session, batch, { careful: true });
    expect(report).toMatchObject(round === 0 ? { rowsMerged: 299, quarantined: 1 } : { rowsMerged: 0 });
  }
  expect(await region.db.query("SELECT count(*)::int AS n FROM t")).toEqual([{ n: 299 }]);
});

test("a key that a local writer inserts meanwhile is waited for, and then is there", async () => {
  await using region = await MergeRegion.create({ schema });
  const session = await region.session({ settings: { lock_timeout: "20s" } });
  const local = await region.db.connect();
  await local.query("BEGIN; INSERT INTO t (id, val) VALUES ('k5', 'local')");
  const merging = mergeNow(
    session,
    batchOf(
      region.table("t"),
      given(rowsOf(300), () => ({ val: "x" })),
    ),
  );
  await eventually(async () => expect(await region.db.query(blockedSql, ["merge 2"])).toHaveLength(1));
  await local.query("COMMIT");
  expect(await merging).toMatchObject({ rowsMerged: 299, conflicts: [{ type: "insert_exists", count: 1 }] });
  expect(await region.db.query("SELECT val FROM t WHERE id = 'k5'")).toEqual([{ val: "local" }]);
});

test("what fails once they are there is the error, and none of them stays", async () => {
  await using region = await MergeRegion.create({ schema });
  const session = await region.session();
  const merge = (states: State[]) =>
    mergeNow(
      session,
      batchOf(
        region.table("t"),
        given(states, (n) => (states[n]?.kind === "row" ? { val: "x" } : {})),
      ),
    );
  await merge(rowsOf(300));
  await region.db
    .query(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'kept'; END $$;
    CREATE TRIGGER refuse BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION refuse();
    ALTER TABLE t ENABLE ALWAYS TRIGGER refuse`);
  const dead = Array.from({ length: 300 }, (_, n) => tombstone(at(9000 + n, 2), { prev: at(n, 2) }));
  await expect(merge(dead)).rejects.toThrow("kept");
  await region.db.query("DROP TRIGGER refuse ON t");
  expect(await merge(dead)).toMatchObject({ tombstonesMerged: 300, rowsSwept: 300 });
});
