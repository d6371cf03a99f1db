import { expect, test } from "vitest";
import { eventually } from "../support/eventually.ts";
import { Regions } from "./agents.ts";
import { blockedSql } from "./merge-helpers.ts";

test("a peer that falls silent before it is streamed from is given up in time", async () => {
  await using regions = await Regions.create({ schema: "CREATE TABLE t (id text PRIMARY KEY)" });
  const locker = await regions.db("a").connect();
  // What a link reads next after it has learned who the peer is.
  await locker.query("BEGIN; LOCK TABLE coregent.replicated_table IN ACCESS EXCLUSIVE MODE");
  const agent = regions.agent("b", { silenceTimeoutMs: 500 });
  await eventually(async () => {
    expect(await regions.db("a").query(blockedSql, ["coregent work a > b"])).toHaveLength(1);
  });
  regions.line("b", "a").cut({ mode: "blackhole" });
  await eventually(() => agent.link("a").lastError !== null, {
    timeoutMs: 30_000,
    what: "giving the peer up",
  });
  regions.line("b", "a").heal();
  await locker.query("ROLLBACK");
  await agent.streaming();
});
