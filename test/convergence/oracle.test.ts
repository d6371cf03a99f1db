import { describe, expect, test } from "vitest";
import { History, type KeyState, type LogEntry, type Outcome, type Write } from "./history.ts";
import { Marks } from "./marks.ts";
import { differencesOf } from "./regions-equal.ts";
import { scheduleOf } from "./schedule.ts";
import { GroupRecord } from "./whole.ts";

/** That the judge of the convergence suite sees each kind of fault: without this, its silence would say nothing. */

const key = '["k"]';

/** A version of a region, from a small number. */
const v = (micros: number, region: number): bigint => BigInt(micros * 1024 + region);

const row = (version: bigint, prev = 0n, body = String(version)): KeyState => ({
  kind: "row",
  base: 0n,
  version,
  prev,
  seen: [],
  content: { body },
});

const tombstone = (version: bigint, prev: bigint): KeyState => ({
  ...row(version, prev),
  kind: "tombstone",
  content: null,
});

const history = (...writes: readonly (readonly [KeyState, Outcome?])[]): History => {
  const all = new History();
  for (const [state, outcome = "acknowledged"] of writes) all.record([written(state)], outcome);
  return all;
};

const written = (state: KeyState): Write => ({ ...state, table: "t", key, region: "a" });

const logged = (state: KeyState): LogEntry => ({
  table: "t",
  key,
  loser: state.version,
  type: "update_origin_differs",
  content: state.content,
});

const holds = (state?: KeyState): Map<string, KeyState> => new Map(state ? [[`t ${key}`, state]] : []);

describe("acknowledged writes", () => {
  const first = row(v(1, 1));
  const upon = row(v(2, 2), first.version);
  const rival = row(v(3, 3), first.version);
  const later = tombstone(v(4, 2), upon.version);

  test("what stays, and all it was written upon, is accounted for", () => {
    expect(history([first], [upon], [later]).problems(holds(later), [])).toEqual([]);
  });

  test("a write that lost is in the log, or what was written upon it is", () => {
    const all = history([first], [upon], [later], [rival]);
    expect(all.problems(holds(later), [logged(rival)])).toEqual([]);
    expect(all.problems(holds(rival), [logged(later)])).toEqual([]);
  });

  test("a lost write is told", () => {
    const all = history([first], [upon], [rival]);
    expect(all.problems(holds(rival), [])).toEqual([expect.stringContaining(`lost: ${upon.version}`)]);
    // A later write of the same region does not hide it if that was not written upon it.
    const elsewhere = row(v(9, 2), rival.version);
    expect(history([first], [upon], [rival], [elsewhere]).problems(holds(elsewhere), [])).toEqual([
      expect.stringContaining(`lost: ${upon.version}`),
    ]);
    expect(all.problems(holds(), [])).toEqual([expect.stringContaining("is gone")]);
  });

  test("a false alarm is told: an ancestor of what stays is in the log", () => {
    expect(history([first], [upon]).falseAlarms(holds(upon), [logged(rival)])).toEqual([]);
    expect(history([first], [upon]).falseAlarms(holds(upon), [logged(first)])).toEqual([
      expect.stringContaining(`the log has ${first.version}, an ancestor`),
    ]);
  });

  test("a loser that the log does not have whole is told", () => {
    const all = history([first], [upon], [rival]);
    const part = { ...logged(upon), content: { body: null } };
    expect(all.problems(holds(rival), [part])).toEqual([expect.stringContaining("does not have the loser")]);
  });

  test("what nobody wrote is told: a key, a version, a content, a rolled back write, a loser", () => {
    expect(new History().problems(holds(first), [])).toEqual([expect.stringContaining("nobody wrote it")]);
    expect(history([first]).problems(holds(upon), [])).toEqual([
      expect.stringContaining("which nobody wrote"),
      expect.stringContaining("nobody wrote"),
      expect.stringContaining("lost"),
    ]);
    const mixed = row(first.version, 0n, "of another row");
    expect(history([first]).problems(holds(mixed), [])).toEqual([expect.stringContaining("was written as")]);
    expect(history([first], [upon, "aborted"]).problems(holds(upon), [])).toEqual([
      expect.stringContaining("was rolled back"),
    ]);
    expect(history([first]).problems(holds(first), [logged(rival)])).toEqual([
      expect.stringContaining("a loser"),
    ]);
  });

  test("a write of unknown outcome may be there or not", () => {
    expect(history([first], [upon, "unknown"]).problems(holds(first), [])).toEqual([]);
    expect(history([first], [upon, "unknown"]).problems(holds(upon), [])).toEqual([]);
  });

  test("of one transaction's writes to a key the last counts", () => {
    const all = new History();
    const deleted = tombstone(v(2, 1), first.version);
    all.record([written(first), written(deleted)], "acknowledged");
    expect(all.problems(holds(deleted), [])).toEqual([]);
    expect(all.problems(holds(first), [])).toEqual([expect.stringContaining(`lost: ${deleted.version}`)]);
    expect(all.counts.acknowledged).toBe(1);
  });

  test("a version that was rolled back, and given again, is the second write's", () => {
    expect(history([row(v(1, 1), 0n, "undone"), "aborted"], [first]).problems(holds(first), [])).toEqual([]);
    expect(history([first], [row(v(1, 1), 0n, "undone"), "aborted"]).problems(holds(first), [])).toEqual([]);
  });
});

describe("states never go down", () => {
  const at = (version: bigint, base = 0n) => new Map([["k", { base, version }]]);

  test("a lower version or base, or a key that vanished, is told", () => {
    const marks = new Marks(1);
    expect(marks.observe(at(v(5, 2), v(5, 2)))).toEqual([]);
    expect(marks.observe(at(v(9, 3), v(4, 2)))).toEqual([expect.stringContaining("went down")]);
    expect(marks.observe(new Map())).toEqual([expect.stringContaining("vanished")]);
    // A higher base outranks any version.
    expect(marks.observe(at(v(2, 1), v(6, 1)))).toEqual([]);
  });

  test("a crash may take merged states away, which come back, and no write of the region's own", () => {
    const marks = new Marks(1);
    marks.observe(at(v(5, 1)));
    marks.observe(at(v(7, 2)));
    marks.crashed();
    expect(marks.observe(at(v(5, 1)))).toEqual([]);
    expect(marks.observe(at(v(4, 1)))).toEqual([expect.stringContaining("went down")]);
    expect(marks.settle(at(v(6, 1)))).toEqual([expect.stringContaining("did not come back")]);
    expect(marks.settle(at(v(7, 2)))).toEqual([]);
  });
});

test("a row that differs between regions is told, and one that is missing", () => {
  const side = (...rows: readonly (readonly [string, string])[]) => new Map([["t", new Map(rows)]]);
  const same = side(["1", "one"], ["2", "two"]);
  expect(
    differencesOf(
      new Map([
        ["a", same],
        ["b", same],
        ["c", side(["2", "two"], ["1", "one"])],
      ]),
    ),
  ).toEqual([]);
  expect(
    differencesOf(
      new Map([
        ["a", same],
        ["b", same],
        ["c", side(["1", "one"], ["2", "zwei"])],
      ]),
    ),
  ).toEqual([expect.stringMatching(/t 2 differs:(.|\n)*a: two(.|\n)*c: zwei/)]);
  expect(
    differencesOf(
      new Map([
        ["a", same],
        ["b", new Map()],
      ]),
    ),
  ).toHaveLength(2);
});

test("a group's last transaction must be there, one of unknown outcome may be", () => {
  const record = new GroupRecord();
  record.acknowledged("g", 1);
  record.acknowledged("g", 2);
  expect(record.problems(new Map([["g", 2]]))).toEqual([]);
  expect(record.problems(new Map([["g", 1]]))).toEqual([expect.stringContaining("is at round 1")]);
  record.unknown("g", 3);
  expect(record.problems(new Map([["g", 2]]))).toEqual([]);
  expect(record.problems(new Map([["g", 3]]))).toEqual([]);
  record.acknowledged("g", null);
  expect(record.problems(new Map())).toEqual([]);
  expect(record.problems(new Map([["h", 1]]))).toEqual([expect.stringContaining("nobody wrote it")]);
});

describe("schedules", () => {
  test("a seed gives one schedule, and another seed another", () => {
    expect(scheduleOf(7)).toEqual(scheduleOf(7));
    expect(scheduleOf(7).faults).not.toEqual(scheduleOf(17).faults);
  });

  test("ten in a row have every headline, wherever they begin", () => {
    for (const from of [0, 3, 1_234_567]) {
      const about = Array.from({ length: 10 }, (_, i) => scheduleOf(from + i).headline);
      expect(new Set(about).size).toBe(10);
    }
  });
});
