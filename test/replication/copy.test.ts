import { afterAll, beforeAll, expect, test } from "vitest";
import { eventually } from "../support/eventually.ts";
import { type LocalAgent, Regions } from "./agents.ts";
import { blockedSql } from "./merge-helpers.ts";

/** Copies of a peer's states in many pieces, of which one is received while another is merged. */

const rows = 2_000;
let regions: Regions;
let b: LocalAgent;

beforeAll(async () => {
  regions = await Regions.create({ schema: "CREATE TABLE notes (id text PRIMARY KEY, body text NOT NULL)" });
  ({ b } = (await regions.agents({ copyPieceRows: 50 })) as { b: LocalAgent });
  await regions
    .db("a")
    .query(`INSERT INTO notes SELECT 'n' || i, repeat('x', 500) FROM generate_series(1, ${rows}) i`);
  await regions.equal(30_000);
  await eventually(() => b.link("a").state === "streaming");
});
afterAll(() => regions?.[Symbol.asyncDispose]());

const copyAgain = (): Promise<unknown> =>
  regions
    .db("b")
    .query(
      "INSERT INTO coregent.table_sync (origin, table_name, kind, reason) VALUES (1, 'public.notes', 'full', 'test')",
    );

test("each row comes once", async () => {
  await regions.db("b").query(`SET session_replication_role = replica; DELETE FROM notes;
    RESET session_replication_role`);
  const before = b.link("a").rows;
  await copyAgain();
  await regions.equal(30_000);
  expect(b.link("a").rows - before).toBe(rows);
});

test("a copy ends with the session that merges it, also where the next piece does not come", async () => {
  const local = await regions.db("b").connect();
  await local.query("BEGIN; UPDATE notes SET body = 'held'");
  // A piece takes a second.
  regions.line("b", "a").setConditions({ bytesPerSecond: 30_000 });
  await copyAgain();
  const blocked = (): Promise<{ pid: number }[]> =>
    regions.db("b").query(blockedSql, ["coregent link a > b"]);
  await eventually(async () => expect(await blocked()).toHaveLength(1));
  regions.line("b", "a").cut({ mode: "blackhole" });
  for (const { pid } of await blocked())
    await regions.db("b").query("SELECT pg_terminate_backend($1)", [pid]);
  // Long before the silence of the line is noticed.
  await eventually(() => b.link("a").state !== "resyncing", { timeoutMs: 10_000, what: "noticing" });
  await local.query("ROLLBACK");
  regions.line("b", "a").setConditions({ bytesPerSecond: null });
  regions.line("b", "a").heal();
  await regions.equal(60_000);
}, 120_000);
