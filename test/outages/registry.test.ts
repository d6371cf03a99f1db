import { Client } from "pg";
import { pino } from "pino";
import { expect, test } from "vitest";
import { systemClock } from "../../src/clock.ts";
import { maxOutages, OutageRegistry, TooManyOutages } from "../../src/outages/registry.ts";
import { createDatabase, eventually } from "../support/database.ts";

const registryOf = (here: string): OutageRegistry =>
  new OutageRegistry({ here, clock: systemClock(), random: () => 0.5, logger: pino({ level: "silent" }) });

const open = async (url: string, registry: OutageRegistry, region: string): Promise<Client> => {
  const client = new Client({ connectionString: url, stream: () => registry.lineTo(region).socket() });
  client.on("error", () => undefined);
  await client.connect();
  return client;
};

test("an outage breaks what is connected, refuses what connects, names itself, and ends by itself", async () => {
  await using database = await createDatabase();
  await using registry = registryOf("moldova");
  const before = await open(database.url, registry, "argentina");
  const elsewhere = await open(database.url, registry, "new-zealand");
  const ended = new Promise((resolve) => before.once("end", resolve));
  registry.start({
    id: "o1",
    spec: { kind: "link", from: "argentina", to: "moldova", oneWay: true },
    forMs: 300,
  });
  await ended;
  await expect(open(database.url, registry, "argentina")).rejects.toThrow("simulated outage o1");
  expect((await elsewhere.query("SELECT 1 AS one")).rows).toEqual([{ one: 1 }]);
  await eventually(() => expect(registry.list()).toEqual([]));
  const after = await open(database.url, registry, "argentina");
  await Promise.all([after.end(), elsewhere.end()]);
});

test("a region that is out does not reach its own master either", async () => {
  await using database = await createDatabase();
  await using registry = registryOf("moldova");
  registry.start({ id: "o1", spec: { kind: "region", region: "moldova" }, forMs: null });
  await expect(open(database.url, registry, "moldova")).rejects.toThrow("simulated outage");
  expect(registry.heal("o1")).toBe(true);
  expect(registry.heal("o1")).toBe(false);
  await (await open(database.url, registry, "moldova")).end();
});

test("a slow line answers as much later, to those who come over it, until it is healed", async () => {
  await using database = await createDatabase();
  await using registry = registryOf("moldova");
  registry.start({
    id: "slow",
    spec: { kind: "latency", from: "moldova", to: "argentina", roundTripMs: 120, jitterMs: 0 },
    forMs: null,
  });
  const slow = await open(database.url, registry, "argentina");
  const began = performance.now();
  await slow.query("SELECT 1");
  // A lower bound only: nothing can come before the line lets it.
  expect(performance.now() - began).toBeGreaterThanOrEqual(119);
  const ended = new Promise((resolve) => slow.once("end", resolve));
  expect(registry.healAll()).toBe(1);
  await ended;
  await (await open(database.url, registry, "argentina")).end();
});

test("there is an end to how many there can be, and one that comes twice is one", async () => {
  await using registry = registryOf("moldova");
  const spec = { kind: "region", region: "argentina" } as const;
  for (let index = 0; index < maxOutages; index++) {
    registry.start({ id: `o${index}`, spec, forMs: null });
  }
  registry.start({ id: "o0", spec, forMs: 1_000 });
  expect(registry.list()).toHaveLength(maxOutages);
  expect(() => registry.start({ id: "another", spec, forMs: null })).toThrow(TooManyOutages);
});
