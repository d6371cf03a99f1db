import { Registry } from "prom-client";
import { expect, test } from "vitest";
import { unprobed } from "../../regions/health.ts";
import { idleLoad } from "../../regions/load.ts";
import { type MeasuredMaster, registerWriterMetrics } from "../../src/http/writer-metrics.ts";
import { parseExposition, sample } from "./exposition.ts";

const master = (name: string): MeasuredMaster => ({
  name,
  health: { ...unprobed(0), health: "down" },
  load: () => ({ ...idleLoad(0), share: 0.25 }),
  drained: true,
  roundTripMs: 250,
  connections: { queued: 3, inFlight: 4, idle: 5 },
});

test("what the writer does, and how its masters are", async () => {
  const registry = new Registry();
  const events = registerWriterMetrics(registry, () => [master("moldova"), master("argentina")]);
  const verdict = { region: "moldova", choice: "nearest", candidate: true, because: "is near" } as const;
  events.routed({ ...verdict, takeover: true }, 30);
  events.routed({ ...verdict, takeover: false }, 40);
  events.routed({ ...verdict, region: "argentina", choice: "owner", takeover: false }, 300);
  events.failedOver("argentina");
  events.read("moldova", 3);
  await registry.metrics();
  const page = await registry.metrics();
  expect([...parseExposition(page).keys()].every((name) => name.startsWith("coregent_"))).toBe(true);
  expect(sample(page, "coregent_writes_total", { region: "moldova", reason: "nearest" })).toBe(2);
  expect(sample(page, "coregent_writes_total", { region: "argentina", reason: "owner" })).toBe(1);
  expect(sample(page, "coregent_takeovers_total", { region: "moldova" })).toBe(1);
  expect(sample(page, "coregent_takeovers_total", { region: "argentina" })).toBe(0);
  expect(sample(page, "coregent_failovers_total", { region: "argentina" })).toBe(1);
  expect(sample(page, "coregent_write_duration_seconds", { "": "_count", region: "moldova" })).toBe(2);
  expect(sample(page, "coregent_write_duration_seconds", { "": "_sum", region: "argentina" })).toBeCloseTo(
    0.3,
  );
  expect(
    sample(page, "coregent_read_duration_seconds", { "": "_bucket", region: "moldova", le: "0.005" }),
  ).toBe(1);
  const moldova = { region: "moldova" };
  expect(sample(page, "coregent_master_health", { ...moldova, health: "down" })).toBe(1);
  expect(sample(page, "coregent_master_health", { ...moldova, health: "healthy" })).toBe(0);
  expect(sample(page, "coregent_master_drained", moldova)).toBe(1);
  expect(sample(page, "coregent_master_share", moldova)).toBe(0.25);
  expect(sample(page, "coregent_master_round_trip_seconds", moldova)).toBe(0.25);
  expect(sample(page, "coregent_master_queued_requests", moldova)).toBe(3);
  expect(sample(page, "coregent_master_in_flight_requests", moldova)).toBe(4);
  expect(sample(page, "coregent_master_idle_sessions", moldova)).toBe(5);
});
