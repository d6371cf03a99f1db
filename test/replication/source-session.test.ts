import { expect, test } from "vitest";
import { eventually } from "../support/eventually.ts";
import { type LocalAgent, Regions } from "./agents.ts";

const schema = "CREATE TABLE notes (id text PRIMARY KEY)";

test("a peer's address that leads to another region stops the link; nothing of it is merged", async () => {
  await using regions = await Regions.create({ schema });
  const agent = regions.agent("b");
  await agent.streaming();
  // The configuration now says that a third region is where region a is.
  await regions.db("a").query("UPDATE coregent.local SET region_id = 7");
  regions.line("b", "a").resetConnections();
  await eventually(() => agent.link("a").state === "stopped");
  expect(agent.link("a").lastError).toMatch(/belongs to region id 7/);
  await regions.db("a").query("INSERT INTO notes VALUES ('of another region')");
  expect(agent.link("a").errors.get("stop")).toBe(1);
  expect(agent.errors().join()).toContain("the link has stopped");
  expect(await regions.db("b").query("SELECT FROM notes")).toEqual([]);
});

test("a peer that is not prepared yet is waited for; its clock and round trip are known once it is", async () => {
  await using regions = await Regions.create({ schema });
  await regions.add("c", 17);
  const agent = regions.agent("a");
  await eventually(() => expect(agent.link("c").lastError).toContain("not prepared yet"));
  expect(agent.link("c").errors.get("stop")).toBeUndefined();
  await regions
    .db("c")
    .query(`ALTER DATABASE ${regions.db("c").name} SET coregent.clock_offset_us = '5000000'`);
  await regions.init();
  await eventually(() => agent.link("c").state === "streaming");
  await eventually(() => {
    const { clockSkewMs, roundTripMs, sourceLsn } = agent.link("c");
    expect(clockSkewMs).toBeGreaterThan(4_000);
    expect(clockSkewMs).toBeLessThan(6_000);
    expect(roundTripMs).toBeGreaterThanOrEqual(0);
    expect(sourceLsn).toBeGreaterThan(0n);
  });
});

test("an agent and init make the same slot at once: neither fails, nor ends the other", async () => {
  await using regions = await Regions.create({ schema });
  const { b: agent } = (await regions.agents()) as { b: LocalAgent };
  // Makes whoever makes a slot wait.
  const open = await regions.db("a").connect();
  await open.query("BEGIN; INSERT INTO notes VALUES ('open')");
  regions.line("b", "a").cut({ mode: "reset" });
  await eventually(() =>
    regions.db("a").query("SELECT pg_drop_replication_slot($1)", [regions.slot("a", "b")]),
  );
  const initialized = regions.init();
  initialized.catch(() => undefined);
  await eventually(
    async () =>
      (
        await regions
          .db("a")
          .query("SELECT FROM pg_replication_slots WHERE slot_name = $1", [regions.slot("a", "b")])
      ).length > 0,
  );
  regions.line("b", "a").heal();
  await eventually(() => expect(agent.link("a").lastError).toContain("is being made"));
  await open.query("COMMIT");
  await initialized;
  await regions.equal();
  expect(agent.link("a").errors.get("stop")).toBeUndefined();
});
