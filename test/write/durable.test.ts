import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { systemClock } from "../../src/clock.ts";
import { Durability, type DurableLimits, SlotWatch } from "../../src/write/durable.ts";
import { pulse } from "../../src/write/pulse.ts";
import { type LocalAgent, Regions } from "../replication/agents.ts";
import { eventually } from "../support/eventually.ts";
import { Masters, Session } from "./clients.ts";

describe("a slot counts", () => {
  const slot = (confirmed: bigint, restart: bigint) => [{ region: 2, confirmed, restart }];
  const durable = (...seen: (readonly [bigint, bigint])[]): number => {
    const durability = new Durability(100n);
    return seen.reduce((_, [confirmed, restart]) => durability.see(slot(confirmed, restart)).size, 0);
  };

  test("once it has confirmed the end of the commit", () => {
    expect(durable([99n, 50n])).toBe(0);
    expect(durable([100n, 50n])).toBe(1);
    expect(durable([99n, 50n], [100n, 100n])).toBe(1);
  });

  test("but not if it was made after the commit: what was before is still to be copied", () => {
    expect(durable([120n, 110n])).toBe(0);
    expect(durable([120n, 110n], [120n, 115n])).toBe(0);
  });

  test("nor if it was in the making", () => {
    const durability = new Durability(100n);
    expect([...durability.see([])]).toEqual([]);
    expect([...durability.see(slot(110n, 90n))]).toEqual([]);
    expect([...durability.see(slot(111n, 90n))]).toEqual([2]);
  });

  test("and does once it advances: then it is streamed from, and all before is copied", () => {
    expect(durable([120n, 110n], [121n, 110n])).toBe(1);
  });
});

describe("with agents", () => {
  let regions: Regions;
  let masters: Masters;
  let agents: Readonly<Record<string, LocalAgent>>;
  const names = ["a", "b", "c"] as const;

  beforeAll(async () => {
    regions = await Regions.create({
      schema: "CREATE TABLE notes (id text PRIMARY KEY)",
      regions: { a: 18, b: 17, c: 16 },
    });
    agents = await regions.agents({ idleProgressMs: 3_600_000 });
    masters = new Masters({
      cluster: regions.cluster,
      masters: names.map((name) => ({ name, id: regions.id(name), url: regions.db(name).url })),
    });
  });
  afterAll(async () => {
    await masters?.[Symbol.asyncDispose]();
    await regions?.[Symbol.asyncDispose]();
  });
  afterEach(() => {
    for (const asks of names) for (const of of names) if (asks !== of) regions.line(asks, of).heal();
  });

  const write = async (id: string): Promise<bigint> => {
    const { committed } = await new Session(masters).write("a", {
      text: "INSERT INTO public.notes VALUES ($1) RETURNING cg_version",
      values: [id],
    });
    return committed;
  };
  const watch = (limits: Partial<DurableLimits> = {}): SlotWatch =>
    new SlotWatch(masters.pool("a"), {
      cluster: regions.cluster,
      region: regions.id("a"),
      clock: systemClock(),
      members: () => new Set(names.map((name) => regions.id(name))),
      pulse: () => masters.positions.pulse(regions.id("a")),
      limits,
    });
  const { signal } = new AbortController();
  const ids = (...list: string[]): Set<number> => new Set(list.map((name) => regions.id(name)));

  test("a write is answered when so many further regions have it, and they do have it", async () => {
    const slots = watch();
    for (const asked of [1, 2]) {
      const id = `durable in ${asked}`;
      const durable = await slots.wait({ lsn: await write(id), regions: asked, waitMs: 30_000, signal });
      expect(durable.size).toBeGreaterThanOrEqual(asked);
      for (const name of names) {
        if (!durable.has(regions.id(name))) continue;
        expect(await regions.db(name).query("SELECT id FROM notes WHERE id = $1", [id])).toEqual([{ id }]);
      }
    }
    expect(await slots.wait({ lsn: await write("in none"), regions: 0, waitMs: 30_000, signal })).toEqual(
      ids(),
    );
  });

  test("a link that is cut: the time is up, and the regions that have it are told", async () => {
    regions.line("c", "a").cut({ mode: "blackhole" });
    const slots = watch();
    const lsn = await write("cut");
    expect(await slots.wait({ lsn, regions: 1, waitMs: 30_000, signal })).toEqual(ids("b"));
    expect(await slots.wait({ lsn, regions: 2, waitMs: 2_000, signal })).toEqual(ids("b"));
    regions.line("c", "a").heal();
    expect(await slots.wait({ lsn, regions: 2, waitMs: 30_000, signal })).toEqual(ids("b", "c"));
  });

  test("who goes away is let go; too many are not waited for", async () => {
    regions.line("c", "a").cut({ mode: "blackhole" });
    const slots = watch({ maxWaiting: 1 });
    const lsn = await write("let go");
    const leaving = new AbortController();
    const first = slots.wait({ lsn, regions: 2, waitMs: 60_000, signal: leaving.signal });
    expect(await slots.wait({ lsn, regions: 2, waitMs: 60_000, signal })).toEqual(ids());
    leaving.abort(new Error("gone"));
    await expect(first).rejects.toThrow("gone");
  });

  test("a position behind the commit, with nothing in between that concerns the peers, is reached by a pulse", async () => {
    await write("before");
    await regions
      .db("a")
      .query("CREATE TABLE noise AS SELECT generate_series(1, 100) AS n; DROP TABLE noise");
    const [row] = await regions
      .db("a")
      .query<{ lsn: string }>("SELECT (pg_current_wal_flush_lsn() - '0/0')::text AS lsn");
    const lsn = BigInt(row?.lsn ?? 0);
    const without = watch({ pulseAfterMs: 3_600_000 });
    expect(await without.wait({ lsn, regions: 1, waitMs: 500, signal })).toEqual(ids());
    expect((await watch().wait({ lsn, regions: 2, waitMs: 30_000, signal })).size).toBe(2);
  });

  test("a region whose slot is made anew has nothing before it is copied", async () => {
    await agents["c"]?.stop();
    const slot = regions.slot("a", "c");
    const lsn = await write("before the slot");
    await eventually(() => regions.db("a").query("SELECT pg_drop_replication_slot($1)", [slot]));
    await regions.db("a").query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", [slot]);
    const waited = await watch().wait({ lsn, regions: 2, waitMs: 1_000, signal });
    expect(waited).toEqual(ids("b"));
    const [position] = await regions
      .db("a")
      .query<{ past: boolean }>(
        "SELECT confirmed_flush_lsn - '0/0' >= $2 AS past FROM pg_replication_slots WHERE slot_name = $1",
        [slot, String(lsn)],
      );
    expect(position).toEqual({ past: true });
    await regions.agent("c", { idleProgressMs: 3_600_000 }).streaming();
    await regions.equal();
    await pulse(masters.pool("a"));
    expect((await watch().wait({ lsn: await write("after"), regions: 2, waitMs: 30_000, signal })).size).toBe(
      2,
    );
  });
});
