import pc from "picocolors";
import { describe, expect, test } from "vitest";
import type { AgentReport } from "../../src/http/report.ts";
import type { Check } from "../../src/cli/status-facts.ts";
import { judge } from "../../src/cli/status-judge.ts";
import type { RegionReading } from "../../src/cli/status-read.ts";
import { statusText } from "../../src/cli/status-render.ts";
import { exitCodeOf } from "../../src/cli/status.ts";
import { atMs, readings, slot, topology } from "./status-fixture.ts";

const judged = (regions: readonly RegionReading[]) => judge(topology, regions, atMs);

/** The checks that are not ok, in short. */
const troubles = (regions: readonly RegionReading[]): Pick<Check, "name" | "severity" | "subject">[] =>
  judged(regions)
    .checks.filter((check) => check.severity !== "ok")
    .map(({ name, severity, subject }) => ({ name, severity, subject }));

const plain = pc.createColors(false);

/** The reading with the agent's word for its link from a peer changed. */
const withLink = (
  reading: RegionReading,
  peer: string,
  change: Partial<AgentReport["links"][number]>,
): RegionReading => {
  if ("error" in reading.agent) {
    throw new Error("the fixture has an agent");
  }
  const links = reading.agent.links.map((link) => (link.peer === peer ? { ...link, ...change } : link));
  return { ...reading, agent: { ...reading.agent, links } };
};

test("regions that are well: 0, six links, nothing but ok", () => {
  const report = judged(readings());
  expect(report.severity).toBe("ok");
  expect(exitCodeOf(report)).toBe(0);
  expect(report.links).toHaveLength(6);
  expect(report.links.every((link) => link.state === "streaming" && link.lagSeconds === 0)).toBe(true);
  expect(new Set(report.checks.map((check) => check.severity))).toEqual(new Set(["ok"]));
});

describe("what is not well is named with a remedy", () => {
  test("a region that cannot be reached; its links are shown with what is known", () => {
    const regions = readings({
      argentina: { reading: { database: { error: "timeout expired" }, agent: { error: "fetch failed" } } },
      moldova: { installed: { slots: [slot(1, 2, { active: false, lagBytes: 77 }), slot(1, 3)] } },
    });
    const report = judged(regions);
    expect(troubles(regions)).toEqual([
      { name: "databases", severity: "critical", subject: "argentina" },
      { name: "links", severity: "warning", subject: "moldova > argentina" },
    ]);
    expect(report.verdict).toBe("argentina cannot be reached: timeout expired, and 1 more");
    expect(exitCodeOf(report)).toBe(3);
    expect(report.links.find((link) => link.source === "argentina")?.lagBytes).toBeNull();
    expect(report.links.find((link) => link.target === "argentina")).toMatchObject({
      lagBytes: 77,
      lagSeconds: null,
      state: "not connected",
    });
  });

  test("no region at all: 1, and nothing is said to be well", () => {
    const gone = { reading: { database: { error: "x" }, agent: { error: "x" } } };
    const report = judged(readings({ moldova: gone, argentina: gone, "new-zealand": gone }));
    expect(exitCodeOf(report)).toBe(1);
    expect(new Set(report.checks.map((check) => check.severity))).toEqual(new Set(["critical"]));
  });

  test("no agent", () => {
    expect(troubles(readings({ moldova: { installed: { agentActive: false } } }))).toEqual([
      { name: "agents", severity: "critical", subject: "moldova" },
    ]);
  });

  test("an agent whose endpoint is out of reach is no trouble; lag is estimated from the databases", () => {
    const report = judged(
      readings({
        moldova: { reading: { agent: { error: "ECONNREFUSED" } } },
        argentina: { installed: { slots: [slot(2, 1, { lagBytes: 500 }), slot(2, 3)] } },
      }),
    );
    expect(report.severity).toBe("ok");
    const into = report.links.filter((link) => link.target === "moldova");
    expect(into.map((link) => [link.source, link.lagSeconds, link.lagIsEstimate])).toEqual([
      ["argentina", 4, true],
      ["new-zealand", 0, true],
    ]);
  });

  test("a slot that is missing, lost, or keeps much", () => {
    const gib = 1024 ** 3;
    expect(troubles(readings({ moldova: { installed: { slots: [slot(1, 3)] } } }))).toEqual([
      { name: "slots", severity: "critical", subject: "moldova > argentina" },
    ]);
    const lost = slot(1, 2, { walStatus: "lost", invalidationReason: "wal_removed" });
    expect(troubles(readings({ moldova: { installed: { slots: [lost, slot(1, 3)] } } }))).toEqual([
      { name: "slots", severity: "critical", subject: "moldova > argentina" },
    ]);
    const slots = [slot(1, 2, { retainedBytes: gib }), slot(1, 3, { retainedBytes: gib - 1 })];
    expect(troubles(readings({ moldova: { installed: { slots } } }))).toEqual([
      { name: "slots", severity: "warning", subject: "moldova > argentina" },
    ]);
  });

  test("a slot of a region that is not in the configuration", () => {
    const slots = [slot(1, 2), slot(1, 3), slot(1, 9)];
    expect(troubles(readings({ moldova: { installed: { slots } } }))).toEqual([
      { name: "slots", severity: "warning", subject: "moldova" },
    ]);
  });

  test.each([
    [{ lagSeconds: 59 }, null],
    [{ lagSeconds: 60 }, "warning"],
    [{ lagSeconds: 600 }, "critical"],
    [{ state: "waiting", lagSeconds: 1, lastError: "ECONNRESET" }, "warning"],
    [{ state: "stopped", lastError: "another cluster" }, "critical"],
  ] as const)("a link with %o: %s", (change, severity) => {
    const [moldova, ...others] = readings();
    const regions = [withLink(moldova as RegionReading, "argentina", change), ...others];
    expect(troubles(regions)).toEqual(
      severity === null ? [] : [{ name: "links", severity, subject: "argentina > moldova" }],
    );
  });

  test("a region that is drained, so that it is not forgotten", () => {
    const regions = readings({ argentina: { installed: { drainedAt: "2026-11-21T07:00:00+00:00" } } });
    expect(troubles(regions)).toEqual([{ name: "drained", severity: "warning", subject: "argentina" }]);
  });

  test("a resync, quarantined rows, clocks apart, a database of another cluster or region", () => {
    const regions = readings({
      moldova: {
        skewMs: -800,
        installed: {
          syncs: [
            {
              origin: 2,
              table: "public.users",
              kind: "full",
              reason: "slot lost",
              misfit: null,
              rowsDone: 1,
              rowsTotal: 10,
            },
          ],
        },
      },
      argentina: {
        skewMs: 3_600_000,
        installed: {
          quarantine: [
            { table: "public.workouts", rows: 2, oldestSeconds: 90, reason: "violates check constraint" },
          ],
        },
      },
      "new-zealand": { installed: { regionId: 9 } },
    });
    expect(troubles(regions)).toEqual([
      { name: "installation", severity: "critical", subject: "new-zealand" },
      { name: "resync", severity: "warning", subject: "argentina > moldova" },
      { name: "quarantine", severity: "warning", subject: "argentina" },
      { name: "clocks", severity: "critical", subject: null },
    ]);
    for (const check of judged(regions).checks) {
      expect(check.remedy === null).toBe(check.severity === "ok");
    }
  });

  test("conflicts are told and are no trouble: nothing was lost", () => {
    const report = judged(readings({ moldova: { installed: { conflicts: { insert_exists: 2 } } } }));
    expect(report.severity).toBe("ok");
    expect(report.checks.at(-1)?.message).toBe("2 in the log (insert_exists 2), none lost");
  });
});

test("text for people: a verdict, two tables, the checks", () => {
  const regions = readings({
    argentina: { reading: { database: { error: "\u001b[2Jtimeout" }, agent: { error: "x" } } },
  });
  const text = statusText(judged(regions), plain);
  expect(text).toMatchInlineSnapshot(`
    "CRITICAL  Weight-Book: argentina cannot be reached: \\x1b[2Jtimeout

    ID  REGION       POSTGRESQL   AGENT         CLOCK  TABLES  QUARANTINE
     1  moldova      18.4         active 0.1.0   0 ms       4           0
     2  argentina    unreachable  -                 -       -           -
     3  new-zealand  18.4         active 0.1.0   0 ms       4           0

    LINK                     STATE      BEHIND  BYTES  ROUND TRIP  WAL KEPT
    moldova > argentina      connected    ~0 s    0 B           -      4 kB
    moldova > new-zealand    streaming     0 s    0 B      181 ms      4 kB
    argentina > moldova      streaming     0 s      -      181 ms         -
    argentina > new-zealand  streaming     0 s      -      181 ms         -
    new-zealand > moldova    streaming     0 s    0 B      181 ms      4 kB
    new-zealand > argentina  connected    ~0 s    0 B           -      4 kB

    Critical  databases     argentina: cannot be reached: \\x1b[2Jtimeout
                            See that the server runs and that this machine may reach it; the other regions go on meanwhile.
    Ok        installation  4 tables replicated in every region (of those that answer)
    Ok        agents        one works for every region (of those that answer)
    Ok        slots         every link has its slot, and none keeps much WAL (of those that answer)
    Ok        links         every link is up and keeps up (of those that answer)
    Ok        resync        none under way, and every table fits (of those that answer)
    Ok        quarantine    empty in every region (of those that answer)
    Ok        clocks        within 0 ms of each other (of those that answer)
    Ok        conflicts     none in the log (of those that answer)"
  `);
  expect(text).not.toContain("\u001b");
});
