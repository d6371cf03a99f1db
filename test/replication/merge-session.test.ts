import { expect, test } from "vitest";
import { together } from "../../src/replication/together.ts";
import { MergeRegion } from "./merge-fixture.ts";
import { refusingAtCommit } from "../support/at-commit.ts";

const schema = "CREATE TABLE t (id text PRIMARY KEY, val text)";
const insert = (id: string): string =>
  `INSERT INTO public.t (id, cg_version, cg_prev) VALUES ('${id}', 1, 0)`;
const positionSql = "SELECT pg_current_xact_id_if_assigned()::text AS xid";

test.each([false, true])(
  "what is asked behind a commit is done after it (written as a local writer: %s)",
  async (asLocalWriter) => {
    await using region = await MergeRegion.create({ schema });
    const session = await region.session();
    await session.begin();
    const write = async (): Promise<void> => void (await session.query(insert("a")));
    await (asLocalWriter ? session.asLocalWriter(write) : write());
    // The position that is asked along with a commit is the one which has to be durable before the peer may forget.
    const [, { rows }] = await together([session.commit(), session.query(positionSql)]);
    expect(rows).toEqual([{ xid: null }]);
    expect(await region.db.query("SELECT id FROM t")).toEqual([{ id: "a" }]);
  },
);

test("a transaction that is begun behind a commit is one by itself, with the origin", async () => {
  await using region = await MergeRegion.create({ schema });
  const session = await region.session();
  await session.begin();
  await session.asLocalWriter(async () => void (await session.query(insert("a"))));
  const committed = session.commit();
  await session.begin();
  await session.query(insert("b"));
  await committed;
  const { rows } = await session.query("SELECT pg_replication_origin_session_is_setup() AS marked");
  expect(rows).toEqual([{ marked: true }]);
  await session.rollback();
  expect(await region.db.query("SELECT id FROM t")).toEqual([{ id: "a" }]);
});

test("a commit that is not done because something before it failed leaves a transaction to be rolled back", async () => {
  await using region = await MergeRegion.create({ schema });
  const session = await region.session();
  await session.begin();
  await session.query(insert("a"));
  const asked = [session.query("SELECT 1 / 0"), session.commit()] as const;
  const after = session.begin().then(() => session.query(insert("b")));
  const settled = await Promise.allSettled([...asked, after]);
  expect(settled.map(({ status }) => status)).toEqual(["rejected", "rejected", "rejected"]);
  await session.rollback();
  await session.transaction(async () => void (await session.query(insert("c"))));
  expect(await region.db.query("SELECT id FROM t")).toEqual([{ id: "c" }]);
});

test("after a commit that failed there is no transaction, or one that is rolled back", async () => {
  await using region = await MergeRegion.create({ schema });
  await region.db.query(refusingAtCommit("NEW.id = 'late'"));
  const session = await region.session();
  for (const [id, before] of [
    ["late", "SELECT 1"],
    ["skipped", "SELECT 1 / 0"],
  ] as const) {
    await session.begin();
    await session.query(insert(id));
    const [, committed] = await Promise.allSettled([session.query(before), session.commit()]);
    expect(committed).toMatchObject({ status: "rejected" });
    expect(session.inTransaction).toBe(false);
    await session.rollback();
    await session.transaction(async () => void (await session.query(insert(`after ${id}`))));
  }
  expect(await region.db.query("SELECT id FROM t ORDER BY id")).toEqual([
    { id: "after late" },
    { id: "after skipped" },
  ]);
});
