import * as fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { commitWithPosition } from "../../src/write/commit.ts";
import {
  covers,
  databaseName,
  type Knowledge,
  pastQuiet,
  type Position,
  readPosition,
  sessionAfter,
} from "../../src/write/position.ts";
import { mergeSessions, type OriginPosition, type SessionToken } from "../../src/write/session-token.ts";
import { runs } from "../conflict/runs.ts";
import { createDatabase, type TestDatabase } from "../support/database.ts";
import { install } from "../postgres/install/installed.ts";

const held = fc.record({ incarnation: fc.constantFrom("old", "new"), lsn: fc.bigInt({ min: 0n, max: 6n }) });
const position: fc.Arbitrary<Position> = fc
  .record({
    own: held,
    committed: fc.bigInt({ min: 0n, max: 6n }),
    merged: fc.array(fc.tuple(fc.integer({ min: 2, max: 4 }), held)),
  })
  .map(({ own, committed, merged }) => ({
    region: 1,
    own,
    committed: committed < own.lsn ? committed : own.lsn,
    merged: new Map(merged),
    misfits: new Map(),
  }));
const token: fc.Arbitrary<SessionToken> = fc
  .array(fc.tuple(fc.integer({ min: 1, max: 5 }), held), { maxLength: 6 })
  .map((list) =>
    mergeSessions(
      { positions: list.map(([origin, each]): OriginPosition => ({ origin, ...each })), version: 0n },
      { positions: [], version: 0n },
    ),
  );
const knowledge: fc.Arbitrary<Knowledge> = fc
  .record({
    members: fc.uniqueArray(fc.integer({ min: 2, max: 5 })),
    changed: fc.uniqueArray(fc.integer({ min: 2, max: 5 })),
  })
  .map(({ members, changed }) => ({
    members: new Set([1, ...members]),
    incarnations: new Map(changed.map((origin) => [origin, "new"])),
    superseded: new Set(changed.map((origin) => databaseName(origin, "old"))),
  }));

describe("what a position covers", () => {
  test("is what a client is given after an answer, and of two tokens both or neither of their merge", () => {
    fc.assert(
      fc.property(position, token, token, knowledge, (at, a, b, known) => {
        expect(covers(at, mergeSessions(a, b), known)).toBe(covers(at, a, known) && covers(at, b, known));
        for (const kind of ["read", "write"] as const) {
          const after = sessionAfter({ session: null, position: at, kind, version: 0n }, known);
          expect(covers(at, after, known)).toBe(true);
          if (covers(at, a, known)) {
            const both = sessionAfter({ session: a, position: at, kind, version: 0n }, known);
            expect(covers(at, both, known)).toBe(true);
          }
        }
      }),
      runs(1_000),
    );
  });

  test("only grows: with the position, and with what is known of quiet regions", () => {
    const span = fc
      .tuple(held, fc.bigInt({ min: 0n, max: 6n }))
      .map(([{ incarnation, lsn }, width]) => ({ incarnation, from: lsn, to: lsn + width }));
    fc.assert(
      fc.property(position, token, knowledge, span, (at, a, ...[known, quiet]) => {
        const further = pastQuiet(at, () => quiet);
        if (covers(at, a, known)) expect(covers(further, a, known)).toBe(true);
        for (const [origin, before] of at.merged) {
          const { incarnation, from, to } = quiet;
          const inside = before.incarnation === incarnation && before.lsn >= from && before.lsn < to;
          expect(further.merged.get(origin)).toEqual(inside ? { ...before, lsn: to } : before);
        }
      }),
      runs(1_000),
    );
  });

  test("a token survives a write at a region that is behind: nothing that was seen is forgotten", () => {
    fc.assert(
      fc.property(position, token, knowledge, (at, a, known) => {
        const after = sessionAfter({ session: a, position: at, kind: "write", version: 0n }, known);
        for (const seen of a.positions) {
          if (covers(at, { positions: [seen], version: 0n }, known)) continue;
          expect(
            after.positions.some(
              ({ origin, incarnation, lsn }) =>
                origin === seen.origin && incarnation === seen.incarnation && lsn >= seen.lsn,
            ),
          ).toBe(true);
        }
      }),
      runs(1_000),
    );
  });

  const at = (merged: [number, { incarnation: string; lsn: bigint }][]): Position => ({
    region: 1,
    own: { incarnation: "mine", lsn: 100n },
    committed: 90n,
    merged: new Map(merged),
    misfits: new Map([[3, new Set(["public.notes"])]]),
  });
  const seen = (origin: number, incarnation: string, lsn: bigint): SessionToken => ({
    positions: [{ origin, incarnation, lsn }],
    version: 0n,
  });
  const members = new Set([1, 2, 3]);

  test("a region that was set up anew: its old positions count until this region has gone over to the new ones", () => {
    const before = at([[2, { incarnation: "first", lsn: 50n }]]);
    const after = at([[2, { incarnation: "second", lsn: 5n }]]);
    const unknown = { members, incarnations: new Map<number, string>(), superseded: new Set<string>() };
    const stale = { ...unknown, incarnations: new Map([[2, "first"]]) };
    const known = {
      members,
      incarnations: new Map([[2, "second"]]),
      superseded: new Set([databaseName(2, "first")]),
    };
    expect(covers(before, seen(2, "first", 50n), known)).toBe(true);
    expect(covers(before, seen(2, "first", 51n), known)).toBe(false);
    expect(covers(before, seen(2, "second", 1n), known)).toBe(false);
    expect(covers(after, seen(2, "first", 51n), known)).toBe(true);
    // Which of the two is the older one, only the region itself tells.
    expect(covers(after, seen(2, "first", 51n), unknown)).toBe(false);
    expect(covers(at([]), seen(2, "first", 1n), unknown)).toBe(false);
    // What nobody has been asked about since is not taken for an old one: here it is the new one.
    expect(covers(before, seen(2, "second", 1n), stale)).toBe(false);
    expect(covers(before, seen(1, "mine before", 1_000n), known)).toBe(true);
    expect(covers(before, seen(1, "mine", 101n), known)).toBe(false);
    expect(covers(before, seen(9, "gone", 1n), known)).toBe(true);
  });

  test("a table that does not fit here is not covered by what is merged of the others", () => {
    const known = { members, incarnations: new Map<number, string>(), superseded: new Set<string>() };
    const here = at([[3, { incarnation: "x", lsn: 50n }]]);
    expect(covers(here, seen(3, "x", 50n), known)).toBe(true);
    expect(covers(here, seen(3, "x", 50n), { ...known, tables: ["public.other"] })).toBe(true);
    expect(covers(here, seen(3, "x", 50n), { ...known, tables: ["public.notes"] })).toBe(false);
  });
});

describe("of a database", () => {
  let db: TestDatabase;
  beforeAll(async () => {
    db = await createDatabase();
    await db.query("CREATE TABLE notes (id int PRIMARY KEY)");
    await install(db);
    await db.query(`INSERT INTO coregent.progress (origin, incarnation, lsn)
      VALUES (7, '00000000-0000-4000-8000-000000000007', '1/F'), (9, '00000000-0000-4000-8000-000000000009', '2/0')`);
  });
  afterAll(() => db?.[Symbol.asyncDispose]());
  const read = async (): Promise<Position> => readPosition(await db.connect());

  test("a region whose states are being copied is missing; a table that does not fit is named", async () => {
    expect([...(await read()).merged.keys()]).toEqual([9]);
    await db.query("UPDATE coregent.table_sync SET misfit = 'missing' WHERE table_name = 'public.notes'");
    expect((await read()).merged.has(7)).toBe(false);
    await db.query("DELETE FROM coregent.table_sync WHERE misfit IS NULL");
    const position = await read();
    expect(position.merged.get(7)).toEqual({
      incarnation: "00000000-0000-4000-8000-000000000007",
      lsn: 0x1_0000_000fn,
    });
    expect([...position.misfits]).toEqual([[7, new Set(["public.notes"])]]);
  });

  test("the position after a commit is not before the end of the commit's record, whether it waits for the disk or not", async () => {
    await db.query("CREATE EXTENSION IF NOT EXISTS pg_walinspect");
    const commitOne = async (id: number): Promise<void> => {
      const client = await db.connect();
      const wait = ["on", "off", "local"][id % 3] ?? "on";
      await client.query(`SET synchronous_commit = ${wait}; BEGIN; INSERT INTO notes VALUES (${id})`);
      const { rows } = await client.query<{ xid: string; lsn: string }>(
        "SELECT pg_current_xact_id()::xid::text AS xid, pg_current_wal_insert_lsn()::text AS lsn",
      );
      const { committed, own } = await commitWithPosition(client);
      expect(own.lsn).toBeGreaterThanOrEqual(committed);
      // What follows is flushed, so that it can be looked at.
      await client.query("SET synchronous_commit = on; SELECT pg_logical_emit_message(true, 'test', '')");
      const { rows: found } = await client.query<{ ends: string }>(
        `SELECT (end_lsn - '0/0')::text AS ends
           FROM pg_get_wal_records_info($2::pg_lsn, pg_current_wal_flush_lsn())
          WHERE resource_manager = 'Transaction' AND record_type = 'COMMIT' AND xid = $1::xid`,
        [rows[0]?.xid, rows[0]?.lsn],
      );
      expect(found).toHaveLength(1);
      expect(BigInt(found[0]?.ends ?? 0)).toBeLessThanOrEqual(committed);
    };
    for (let round = 0; round < 4; round += 1) {
      await Promise.all(Array.from({ length: 6 }, (_, i) => commitOne(round * 6 + i)));
    }
  });
});
