import { afterAll, beforeAll, expect, test } from "vitest";
import { WatchedMasters } from "../../src/entrance/watched-masters.ts";
import { eventually } from "../support/database.ts";
import { WritingRegions } from "../write/masters-fixture.ts";
import { openEntrance, Session, through } from "./fixture.ts";

let regions: WritingRegions;
beforeAll(async () => {
  regions = await WritingRegions.create();
});
afterAll(() => regions[Symbol.asyncDispose]());

test("what the writer's probes find out moves the sessions: a line that goes dead without a word, and comes back", async () => {
  const masters = regions.masters("a");
  const watched = new WatchedMasters({ masters, random: () => 0.5 });
  const ending = new AbortController();
  const running = watched.run(ending.signal);
  try {
    await using entrance = await openEntrance(watched);
    // The regions' databases have names of their own, and this one is everywhere.
    const url = through(entrance, "postgres://postgres@127.0.0.1/postgres");
    const whichRegion = async (session: Session): Promise<string | undefined> => {
      const version = Number(await session.value("SELECT current_setting('server_version_num')"));
      return { 18: "a", 17: "b", 16: "c" }[Math.trunc(version / 10_000)];
    };
    await eventually(() => expect(masters.views().map(({ health }) => health)).not.toContain("suspect"));
    await using session = await Session.open(url);
    expect(await whichRegion(session)).toBe("a");
    regions.line("a").cut({ mode: "blackhole" });
    expect(await session.ended).toMatchObject({
      code: "57P01",
      message: 'terminating connection: the master of region "a" is down',
    });
    await using backup = await Session.open(url);
    expect(["b", "c"]).toContain(await whichRegion(backup));
    regions.line("a").heal();
    await eventually(async () => {
      await using back = await Session.open(url);
      expect(await whichRegion(back)).toBe("a");
    });
    expect(await whichRegion(backup)).not.toBe("a");
  } finally {
    ending.abort();
    await running;
  }
});
