import { assert, check as tryOut, property as forAll } from "fast-check";
import { describe, expect, it } from "vitest";
import { succeeded } from "../../conflict/classify.ts";
import { compareStates } from "../../conflict/state.ts";
import { check, history, play } from "./histories.ts";
import { ours, type Rules } from "./model.ts";
import { runs } from "./runs.ts";

const property = (rules: Rules) => forAll(history, (of) => check(play(of, rules)));

describe("random histories", () => {
  it("end equal, keep the last, and log exactly what was lost", () => {
    assert(property(ours), runs(3_000));
  }, 3_600_000);

  /** Each of these is simpler than ours and was thought to suffice; the properties must find what it breaks. */
  const simpler: Record<string, { readonly rules: Rules; readonly breaks: RegExp }> = {
    "judging retraction only where a conflict is reported": {
      rules: { ...ours, retractsOnConflictOnly: true },
      breaks: /L2/,
    },
    "one report per loser, whoever reports": {
      rules: { ...ours, reportsPerRegion: false },
      breaks: /L1/,
    },
    "retracting own reports as others' are": {
      rules: { ...ours, retracts: (loser, incoming) => succeeded(loser, incoming) },
      breaks: /L1/,
    },
    "retracting others' reports only by equality": {
      rules: { ...ours, retracts: (loser, incoming) => (incoming.seen ?? []).includes(loser) },
      breaks: /L2/,
    },
    "no floor": { rules: { ...ours, keepsFloor: false }, breaks: /given twice|L1|L2/ },
    "no retraction": { rules: { ...ours, retracts: () => false }, breaks: /L2/ },
    "the last to arrive wins": {
      rules: {
        ...ours,
        merge: (held, incoming, region) => ({ ...ours.merge(held, incoming, region), held: incoming }),
      },
      breaks: /differ|went down/,
    },
    "versions alone decide": {
      rules: {
        ...ours,
        merge: (held, incoming, region) => {
          const merged = ours.merge(held, incoming, region);
          const wins = held === null || incoming.version > held.version;
          return { ...merged, held: wins ? incoming : held, replaces: wins };
        },
      },
      breaks: /went down|not the highest/,
    },
  };

  it.each(Object.entries(simpler))("would fail with %s", (_name, { rules, breaks }) => {
    const result = tryOut(property(rules), { numRuns: 30_000, seed: 1, endOnFailure: true });
    expect(result.failed).toBe(true);
    expect(String(result.errorInstance)).toMatch(breaks);
  });

  it("compares states by base first", () => {
    const low = { kind: "row", base: 0n, version: 9n << 10n, prev: 0n, seen: null, content: "" } as const;
    expect(compareStates({ ...low, base: 5n, version: 5n << 10n }, low)).toBe(1);
  });
});
