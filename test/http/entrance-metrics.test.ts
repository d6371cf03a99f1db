import { Registry } from "prom-client";
import { expect, test } from "vitest";
import type { EntranceStatus } from "../../src/entrance/counters.ts";
import { registerEntranceMetrics } from "../../src/http/entrance-metrics.ts";
import { parseExposition, sample } from "./exposition.ts";

test("the entrance's metrics are its status, at each scrape anew", async () => {
  const status: EntranceStatus = {
    starting: 2,
    sessions: new Map([["moldova", 7]]),
    opened: new Map([["moldova", 9]]),
    ended: new Map([["down", 2]]),
    refused: new Map([["57P03", 1]]),
    dropped: 3,
    cancelRequests: 4,
    bytesToClients: 500,
    bytesToMasters: 60,
  };
  const registry = new Registry();
  registerEntranceMetrics(registry, () => status);
  await registry.metrics();
  const page = await registry.metrics();
  for (const [name, family] of parseExposition(page)) {
    expect(name).toMatch(/^coregent_entrance_/);
    expect(name.endsWith("_total")).toBe(family.type === "counter");
  }
  expect(sample(page, "coregent_entrance_sessions", { master: "moldova" })).toBe(7);
  expect(sample(page, "coregent_entrance_sessions_total", { master: "moldova" })).toBe(9);
  expect(sample(page, "coregent_entrance_ended_total", { reason: "down" })).toBe(2);
  expect(sample(page, "coregent_entrance_refused_total", { sqlstate: "57P03" })).toBe(1);
  expect(sample(page, "coregent_entrance_dropped_total", {})).toBe(3);
  expect(sample(page, "coregent_entrance_bytes_total", { to: "masters" })).toBe(60);
});
