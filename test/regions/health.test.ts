import { array, assert, boolean, integer, property as forAll, record } from "fast-check";
import { describe, expect, it } from "vitest";
import {
  afterProbe,
  unprobed,
  type Health,
  type HealthBounds,
  type HealthState,
} from "../../regions/health.ts";
import { runs } from "../conflict/runs.ts";

const bounds: HealthBounds = { failuresToDown: 3, successesToUp: 2, calmMs: 1_000 };

const good = (atMs: number) => ({ ok: true, atMs }) as const;
const failed = (atMs: number) => ({ ok: false, atMs, reason: "does not answer" }) as const;

const play = (probes: readonly { ok: boolean; atMs: number }[], given = bounds): HealthState =>
  probes.reduce<HealthState>(
    (state, { ok, atMs }) => afterProbe(state, ok ? good(atMs) : failed(atMs), given),
    unprobed(0),
  );

/** `+` a good probe, `-` a failed one, `.` a second that passes. */
const after = (story: string): Health => {
  let atMs = 0;
  const probes: { ok: boolean; atMs: number }[] = [];
  for (const sign of story) {
    if (sign === ".") atMs += 1_000;
    else probes.push({ ok: sign === "+", atMs });
  }
  return play(probes).health;
};

describe("every state after every probe", () => {
  it.each<[from: string, story: string, health: Health]>([
    ["never probed", "", "suspect"],
    ["never probed, good", "+", "healthy"],
    ["never probed, failed", "-", "suspect"],
    ["healthy, good", "++", "healthy"],
    ["healthy, failed", "+-", "suspect"],
    ["suspect, good", "+-+", "healthy"],
    ["suspect, failed once more", "+--", "suspect"],
    ["suspect, failed for the last time", "+---", "down"],
    ["suspect after a good one between, failed", "+--+--", "suspect"],
    ["down, failed", "----", "down"],
    ["down, good", "---+", "down"],
    ["down, good often enough but too soon", "---+++", "down"],
    ["down, calm for long enough but good too seldom", "---..+", "down"],
    ["down, good often enough over a calm time", "---+.+", "healthy"],
    ["down, failed in the calm time", "---+.-+", "down"],
    ["down, failed in the calm time, then calm", "---+.-+.+", "healthy"],
  ])("%s: %s", (_, story, health) => {
    expect(after(story)).toBe(health);
  });
});

const probes = array(record({ ok: boolean(), waitMs: integer({ min: 0, max: 900 }) }), { maxLength: 60 }).map(
  (steps) => {
    let atMs = 0;
    return steps.map(({ ok, waitMs }) => ({ ok, atMs: (atMs += waitMs) }));
  },
);
const anyBounds = record({
  failuresToDown: integer({ min: 1, max: 4 }),
  successesToUp: integer({ min: 1, max: 4 }),
  calmMs: integer({ min: 0, max: 2_000 }),
});

it("is what the whole history says, read by someone who forgets nothing", () => {
  /** For each moment, looks back: the last run of failures that was long enough, and what was calm since. */
  const judged = (history: readonly { ok: boolean; atMs: number }[], given: HealthBounds): Health => {
    let health: Health = "suspect";
    history.forEach((probe, index) => {
      const past = history.slice(0, index + 1);
      const run = past.slice(past.findLastIndex(({ ok }) => ok !== probe.ok) + 1);
      if (!probe.ok) {
        health = health === "down" || run.length >= given.failuresToDown ? "down" : "suspect";
      } else if (health !== "down") {
        health = "healthy";
      } else if (run.length >= given.successesToUp && probe.atMs - (run[0]?.atMs ?? 0) >= given.calmMs) {
        health = "healthy";
      }
    });
    return health;
  };
  assert(
    forAll(probes, anyBounds, (history, given) => {
      expect(play(history, given).health).toBe(judged(history, given));
    }),
    runs(500),
  );
});

it("goes down within so many failures, and comes back within so many good probes and the calm time", () => {
  assert(
    forAll(probes, anyBounds, (history, given) => {
      let state = play(history, given);
      let atMs = history.at(-1)?.atMs ?? 0;
      for (let i = 0; i < given.failuresToDown; i += 1) state = afterProbe(state, failed(atMs), given);
      expect(state.health).toBe("down");
      for (let i = 0; i < given.successesToUp - 1; i += 1) state = afterProbe(state, good(atMs), given);
      atMs += given.calmMs;
      // One good probe begins the calm time if no other has.
      state = afterProbe(state, good(atMs), given);
      state = afterProbe(state, good(atMs + given.calmMs), given);
      expect(state).toMatchObject({ health: "healthy", failures: 0, reason: null });
    }),
    runs(300),
  );
});

it("tells since when, and why", () => {
  const down = play([good(1), failed(5), failed(6), failed(7), failed(8)]);
  expect(down).toMatchObject({ health: "down", sinceMs: 7, failures: 4, reason: "does not answer" });
  expect(play([good(1), good(5)])).toMatchObject({ health: "healthy", sinceMs: 1, reason: null });
});
