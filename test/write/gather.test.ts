import { setImmediate } from "node:timers/promises";
import { array, assert, asyncProperty, boolean, constant, integer, oneof, record } from "fast-check";
import { expect, test } from "vitest";
import { Gatherer } from "../../src/write/gather.ts";

const maxRequests = 4;
const maxBytes = 100;
const maxUnderWay = 2;

interface Asked {
  readonly id: number;
  readonly bytes: number;
  /** What it would break, or null. */
  readonly bad: "its own" | "everybody's" | null;
  readonly signal: AbortSignal;
}

/** Work that ends when the test says so, and what of it was seen. */
class Work {
  /** Under way. */
  running: { readonly ids: readonly number[]; readonly end: () => void }[] = [];
  sleeping: (() => void)[] = [];
  readonly batches: (readonly number[])[] = [];
  readonly startedAlone: number[] = [];
  readonly done: number[] = [];
  tooLarge = 0;
  readonly gatherer = new Gatherer<Asked, number>({
    alone: async (request) => {
      this.startedAlone.push(request.id);
      await this.#ending([request]);
      if (request.bad !== null) throw new Error(request.bad);
      this.done.push(request.id);
      return request.id;
    },
    together: async (requests) => {
      this.batches.push(requests.map(({ id }) => id));
      const bytes = requests.reduce((sum, each) => sum + each.bytes, 0);
      if (requests.length > maxRequests || bytes > maxBytes) this.tooLarge += 1;
      await this.#ending(requests);
      const bad = requests.map((request) => request.bad).find((what) => what !== null);
      if (bad !== undefined)
        throw new Error(requests.some((each) => each.bad === "everybody's") ? "everybody's" : bad);
      this.done.push(...requests.map(({ id }) => id));
      return requests.map(({ id }) => id);
    },
    concernsAll: (error) => error instanceof Error && error.message === "everybody's",
    sleep: () => new Promise((resolve) => this.sleeping.push(resolve)),
    bounds: { maxUnderWay, maxWaitMs: 5, maxRequests: () => maxRequests, maxBytes },
  });

  async #ending(requests: readonly Asked[]): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const each = { ids: requests.map(({ id }) => id), end: resolve };
    this.running.push(each);
    await promise;
    this.running = this.running.filter((other) => other !== each);
  }

  get started(): ReadonlySet<number> {
    return new Set([...this.startedAlone, ...this.batches.flat()]);
  }
}

/** What is due in the event loop has been done. */
const settled = async (): Promise<void> => {
  for (let i = 0; i < 4; i += 1) await setImmediate();
};

const request = (id: number, changes: Partial<Asked> = {}): Asked => ({
  id,
  bytes: 1,
  bad: null,
  signal: new AbortController().signal,
  ...changes,
});

test("each is answered once with what is its own, is done once at most, and waits no longer than it must", async () => {
  const step = oneof(
    record({
      kind: constant("ask" as const),
      bytes: integer({ min: 0, max: 120 }),
      bad: oneof(
        { weight: 8, arbitrary: constant(null) },
        { weight: 1, arbitrary: constant("its own" as const) },
        { weight: 1, arbitrary: constant("everybody's" as const) },
      ),
      leaves: boolean(),
      turn: boolean(),
    }),
    record({ kind: constant("end" as const), which: integer({ min: 0, max: 5 }) }),
    record({ kind: constant("time" as const) }),
    record({ kind: constant("leave" as const) }),
  );
  await assert(
    asyncProperty(array(step, { maxLength: 60 }), async (steps) => {
      const work = new Work();
      const asked: {
        readonly request: Asked;
        readonly answer: Promise<unknown>;
        readonly leaving: AbortController;
      }[] = [];
      const leavers: AbortController[] = [];
      for (const each of steps) {
        if (each.kind === "ask") {
          const leaving = new AbortController();
          const { bytes, bad } = each;
          const one = request(asked.length, { bytes, bad, signal: leaving.signal });
          const answer = work.gatherer.ask(one).catch((error: unknown) => error);
          asked.push({ request: one, answer, leaving });
          if (each.leaves) leavers.push(leaving);
          if (each.turn) await settled();
        } else if (each.kind === "end") {
          work.running[each.which % Math.max(1, work.running.length)]?.end();
          await settled();
        } else if (each.kind === "time") {
          for (const wake of work.sleeping.splice(0)) wake();
          await settled();
          const waiting = asked.filter(
            ({ request: { id, signal } }) => !work.started.has(id) && !signal.aborted,
          );
          expect(waiting).toEqual([]);
        } else {
          leavers.shift()?.abort(new Error("gone"));
        }
      }
      while (work.running.length > 0 || work.sleeping.length > 0) {
        for (const wake of work.sleeping.splice(0)) wake();
        for (const { end } of work.running) end();
        await settled();
      }
      expect(work.tooLarge).toBe(0);
      for (const {
        request: { id, bad, signal },
        answer,
      } of asked) {
        const found = await answer;
        const times = work.done.filter((other) => other === id).length;
        if (found === id) {
          expect([bad, times]).toEqual([null, 1]);
          continue;
        }
        const { message } = found as Error;
        const possible = [...(signal.aborted ? ["gone"] : []), ...(bad === null ? [] : [bad]), "everybody's"];
        expect(possible).toContain(message);
        expect(times).toBe(0);
        if (message === "everybody's" && bad !== message) {
          const batch = work.batches.find((ids) => ids.includes(id)) ?? [];
          expect(batch.some((other) => asked[other]?.request.bad === message)).toBe(true);
        }
      }
    }),
    { numRuns: 300 },
  );
});

test("one that comes alone goes alone; those that come meanwhile share a batch, and no more than two are under way", async () => {
  const work = new Work();
  const answers = Array.from({ length: 7 }, (_, id) => work.gatherer.ask(request(id)));
  expect([work.startedAlone, work.batches]).toEqual([[0], [[1, 2, 3, 4]]]);
  await settled();
  expect(work.batches).toEqual([[1, 2, 3, 4]]);
  work.running[0]?.end();
  await settled();
  expect(work.batches).toEqual([
    [1, 2, 3, 4],
    [5, 6],
  ]);
  for (const { end } of work.running) end();
  expect(await Promise.all(answers)).toEqual([0, 1, 2, 3, 4, 5, 6]);
});

test("after a failure the next go alone: one, two, four; until a batch goes well", async () => {
  const work = new Work();
  let id = 0;
  const ask = (bad: Asked["bad"]): Promise<unknown> =>
    work.gatherer.ask(request(id++, { bad })).catch((error: unknown) => error);
  const endAll = async (): Promise<void> => {
    while (work.running.length > 0) {
      for (const { end } of work.running) end();
      await settled();
    }
  };
  const answered = async (all: readonly Promise<unknown>[]): Promise<void> => {
    await settled();
    await endAll();
    await Promise.all(all);
  };
  const failing = async (): Promise<void> => {
    const before = work.batches.length;
    // The first goes alone, as none is under way, and then each of the batch.
    await answered([ask(null), ask(null), ask("its own")]);
    expect(work.batches).toHaveLength(before + 1);
  };
  const areAlone = async (count: number): Promise<void> => {
    const before = work.batches.length;
    await answered(Array.from({ length: count }, () => ask(null)));
    expect(work.batches).toHaveLength(before);
  };
  for (const pause of [1, 2, 4, 8, 16, 32, 64, 64]) {
    await failing();
    await areAlone(pause);
  }
  await answered([ask(null), ask(null), ask(null)]);
  await failing();
  await areAlone(1);
  await failing();
});
