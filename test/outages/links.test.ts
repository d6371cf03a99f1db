import { pino } from "pino";
import { expect, test } from "vitest";
import { systemClock } from "../../src/clock.ts";
import { OutageRegistry } from "../../src/outages/registry.ts";
import { Masters } from "../../src/write/masters.ts";
import { Regions } from "../replication/agents.ts";
import { eventually } from "../support/eventually.ts";
import { quick } from "../write/masters-fixture.ts";

/** Longer than any test: who waits so long has not been woken. */
const patient = { minBackoffMs: 600_000, maxBackoffMs: 600_000 };

test("a link that waits after an outage comes back when that is healed, or ends by itself", async () => {
  await using regions = await Regions.create({ schema: "CREATE TABLE notes (id text PRIMARY KEY)" });
  await using outages = new OutageRegistry({
    here: "a",
    clock: systemClock(),
    random: () => 0.5,
    logger: pino({ level: "silent" }),
  });
  const agent = regions.agent("a", patient, { lineTo: (name) => outages.lineTo(name) });
  await agent.streaming();
  const spec = { kind: "link", from: "a", to: "b", oneWay: false } as const;
  const waiting = (): Promise<unknown> => eventually(() => agent.link("b").state === "waiting");

  outages.start({ id: "o1", spec, forMs: null });
  await waiting();
  outages.heal("o1");
  await agent.streaming();

  outages.start({ id: "o2", spec, forMs: 300 });
  await waiting();
  // Another one that begins meanwhile changes nothing.
  outages.start({ id: "o3", spec, forMs: 500 });
  await eventually(() => outages.list().length === 0);
  await agent.streaming();

  // Healed at once, in the midst of the attempt that it has broken.
  outages.start({ id: "o4", spec, forMs: null });
  outages.heal("o4");
  await eventually(() => expect(agent.link("b").errors.get("retry")).toBeGreaterThanOrEqual(3));
  await agent.streaming();
  await regions.db("b").query("INSERT INTO notes VALUES ('x')");
  await eventually(async () => (await regions.db("a").query("SELECT FROM notes")).length === 1);
});

test("a link that waits while its peer is away comes back when a probe is answered again", async () => {
  await using regions = await Regions.create({ schema: "CREATE TABLE notes (id text PRIMARY KEY)" });
  const clock = systemClock();
  const logger = pino({ level: "silent" });
  await using outages = new OutageRegistry({ here: "a", clock, random: () => 0.5, logger });
  const lineTo = (name: string) => outages.lineTo(name);
  const agent = regions.agent("a", patient, { lineTo });
  await agent.streaming();
  // As the agent reaches them. Longer than any test: b is not trusted with writes again before.
  const seen = regions.topology("a");
  const topology = { ...seen, writer: { ...seen.writer, ...quick, calmMs: 600_000 } };
  const masters = new Masters({ here: "a", topology: () => topology, clock, logger, lineTo });
  try {
    const health = (): string | undefined => masters.find("b")?.health.health;
    regions.line("a", "b").cut({ mode: "reset" });
    await eventually(() => health() === "down" && agent.link("b").state === "waiting");
    regions.line("a", "b").heal();
    await agent.streaming();
    expect(health()).toBe("down");
  } finally {
    await masters.close();
  }
});
