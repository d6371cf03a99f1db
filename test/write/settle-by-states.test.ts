import { afterAll, beforeAll, expect, test } from "vitest";
import { systemClock } from "../../src/clock.ts";
import type { Operation, OperationResult } from "../../src/write/operation.ts";
import { runOperations } from "../../src/write/run-operations.ts";
import { settleByStates } from "../../src/write/settle-by-states.ts";
import { createMaster, insert, type Master, row } from "./fixture.ts";

/** What an unknown outcome comes to, told by what is held of the keys. */

let master: Master;
beforeAll(async () => {
  master = await createMaster("CREATE TABLE t (id text PRIMARY KEY, v text, owner text)", {
    "public.t": "owner",
  });
});
afterAll(() => master[Symbol.asyncDispose]());

const update = (id: string, v: string): Operation => ({
  kind: "update",
  table: "t",
  key: [id],
  values: row({ v }),
  ifMatch: null,
  returning: [],
});
const remove = (id: string): Operation => ({
  kind: "delete",
  table: "t",
  key: [id],
  ifMatch: null,
  returning: [],
});

/** Nobody has this process id. */
const nobody = 2 ** 31 - 1;

const settled = (
  operations: readonly Operation[],
  results: readonly OperationResult[],
  backend = nobody,
): Promise<string> =>
  settleByStates(master.client, master.catalog, {
    operations,
    results,
    backend,
    waitMs: 100,
    clock: systemClock(),
  });

const undone = async (...operations: readonly Operation[]): Promise<readonly OperationResult[]> => {
  await master.client.query("BEGIN");
  const results = await runOperations(master.client, master.catalog, operations);
  await master.client.query("ROLLBACK");
  return results;
};

test("rows that are there as they were written: done; and as they were before: undone", async () => {
  const inserting = [insert("t", { id: "a" }, { id: "b" })];
  expect(await settled(inserting, await undone(...inserting))).toBe("undone");
  expect(await settled(inserting, await master.run(...inserting))).toBe("done");
  // Twice the same row: the last version counts.
  const updating = [update("a", "x"), update("a", "y")];
  expect(await settled(updating, await undone(...updating))).toBe("undone");
  expect(await settled(updating, await master.run(...updating))).toBe("done");
  const deleting = [remove("a")];
  expect(await settled(deleting, await undone(...deleting))).toBe("undone");
  expect(await settled(deleting, await master.run(...deleting))).toBe("done");
});

test("what somebody has written upon tells nothing; another row of the transaction does", async () => {
  const operations = [insert("t", { id: "c" }, { id: "d" })];
  const results = await master.run(...operations);
  await master.run(update("c", "upon it"));
  expect(await settled(operations, results)).toBe("done");
  await master.run(remove("d"));
  expect(await settled(operations, results)).toBe("unknown");
});

test("a lower version with the owner's authority came after it", async () => {
  await master.run(insert("t", { id: "e", owner: "argentina" }));
  const operations = [update("e", "not its owner")];
  const results = await master.run(...operations);
  // As a merge replaces it, by what the owner wrote earlier.
  await master.db.query(
    "SET session_replication_role = replica; UPDATE t SET cg_version = cg_version - 1024, cg_base = cg_version - 1024 WHERE id = 'e'; RESET session_replication_role",
  );
  expect(await settled(operations, results)).toBe("unknown");
});

test("as long as the lost session is in its transaction, nothing is known", async () => {
  const operations = [insert("t", { id: "f" })];
  const results = await undone(...operations);
  const lost = await master.db.connect();
  await lost.query("SET application_name = 'coregent writer moldova'");
  await lost.query("BEGIN");
  const { rows } = await lost.query<{ pid: number }>("SELECT pg_backend_pid() AS pid");
  const pid = rows[0]?.pid ?? 0;
  expect(await settled(operations, results, pid)).toBe("unknown");
  await lost.query("ROLLBACK");
  expect(await settled(operations, results, pid)).toBe("undone");
});
