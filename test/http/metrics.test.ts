import { describe, expect, test } from "vitest";
import { agentStatus, nowMs, startServer } from "./agent-fixture.ts";
import { parseExposition, sample } from "./exposition.ts";

const scrape = async (status: Parameters<typeof startServer>[0]): Promise<string> => {
  await using server = await startServer(status);
  const response = await server.get("/metrics");
  expect(response.status).toBe(200);
  expect(response.headers.get("content-type")).toBe("text/plain; version=0.0.4; charset=utf-8");
  return response.text();
};

describe("GET /metrics", () => {
  test("is a valid exposition with help for every family, also with names that need escaping", async () => {
    const status = agentStatus({
      quarantined: new Map([['public."odd\\name"\nline', 3]]),
      slots: [
        {
          name: "coregent_w_1_2",
          peer: "argentina",
          active: true,
          walStatus: "reserved",
          retainedBytes: 4096,
        },
      ],
    });
    status.link.conflicts.set("public.users", new Map([["insert_exists", 2]]));
    const page = await scrape(status);
    const families = parseExposition(page);
    for (const [name, family] of families) {
      expect(name).toMatch(/^(coregent|process)_/);
      expect(family.help).not.toBe("");
      expect(name.endsWith("_total")).toBe(family.type === "counter");
    }
    expect(sample(page, "coregent_quarantined_rows", { table: 'public."odd\\name"\nline' })).toBe(3);
    expect(sample(page, "coregent_slot_retained_bytes", { slot: "coregent_w_1_2", peer: "argentina" })).toBe(
      4096,
    );
    expect(
      sample(page, "coregent_slot_wal_status", {
        slot: "coregent_w_1_2",
        peer: "argentina",
        status: "reserved",
      }),
    ).toBe(1);
    expect(
      sample(page, "coregent_conflicts_total", {
        peer: "argentina",
        table: "public.users",
        type: "insert_exists",
      }),
    ).toBe(2);
  });

  test("a second scrape shows the totals of the status, neither doubled nor stale", async () => {
    const status = agentStatus();
    await using server = await startServer(status);
    status.link.rows = 10;
    status.link.errors.set("retry", 1);
    await server.get("/metrics");
    status.link.rows = 12;
    const page = await (await server.get("/metrics")).text();
    expect(sample(page, "coregent_link_rows_total", { peer: "argentina" })).toBe(12);
    expect(sample(page, "coregent_merge_errors_total", { peer: "argentina", reaction: "retry" })).toBe(1);
    expect(sample(page, "coregent_merge_errors_total", { peer: "argentina", reaction: "stop" })).toBe(0);
  });

  test("a table that leaves quarantine leaves the page", async () => {
    const quarantined = new Map([["public.users", 1]]);
    await using server = await startServer(agentStatus({ quarantined }));
    await server.get("/metrics");
    quarantined.clear();
    const page = await (await server.get("/metrics")).text();
    expect(parseExposition(page).get("coregent_quarantined_rows")?.samples.size).toBe(0);
  });

  test("lag is 0 when nothing is outstanding", async () => {
    const status = agentStatus();
    status.link.mergedCommitMs = nowMs - 86_400_000;
    expect(sample(await scrape(status), "coregent_link_lag_seconds", { peer: "argentina" })).toBe(0);
  });

  test("lag counts from the oldest pending commit, by the clock of the peer that gave it", async () => {
    const status = agentStatus();
    // The peer's clock is an hour ahead: what it committed at 13:00 by its clock is 5 seconds old here.
    status.link.clockSkewMs = 3_600_000;
    status.link.pendingCommitMs = nowMs + 3_600_000 - 5000;
    status.link.mergedLsn = 0x1_0000_0000n;
    status.link.sourceLsn = 0x1_0000_0400n;
    const page = await scrape(status);
    expect(sample(page, "coregent_link_lag_seconds", { peer: "argentina" })).toBe(5);
    expect(sample(page, "coregent_link_lag_bytes", { peer: "argentina" })).toBe(1024);
    expect(sample(page, "coregent_link_clock_skew_seconds", { peer: "argentina" })).toBe(3600);
  });

  test("a cut link does not show a lag of 0", async () => {
    const status = agentStatus();
    status.link.state = "waiting";
    // It tries again and again, so the state itself is new.
    status.link.sinceMs = nowMs - 10;
    status.link.currentAtMs = nowMs - 42_000;
    const page = await scrape(status);
    expect(sample(page, "coregent_link_lag_seconds", { peer: "argentina" })).toBe(42);
    expect(sample(page, "coregent_link_state", { peer: "argentina", state: "waiting" })).toBe(1);
    expect(sample(page, "coregent_link_state", { peer: "argentina", state: "streaming" })).toBe(0);
  });

  test("names what runs", async () => {
    const page = await scrape(agentStatus());
    const labels = {
      version: "0.1.0",
      node: process.version,
      region: "moldova",
      region_id: "1",
      cluster: "weightbook",
    };
    expect(sample(page, "coregent_build_info", labels)).toBe(1);
    expect(sample(page, "coregent_agent_role", { role: "active" })).toBe(1);
  });
});
