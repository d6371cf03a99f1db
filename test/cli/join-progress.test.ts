import { expect, test } from "vitest";
import { CopyProgress, type PendingCopy } from "../../src/cli/join-progress.ts";

const copy = (
  table: string,
  done: number,
  total: number | null,
  misfit: string | null = null,
): PendingCopy => ({
  origin: 1,
  table,
  done,
  total,
  misfit,
});

test("rows, rate and time left", () => {
  const progress = new CopyProgress(1_000);
  progress.see([copy("t", 0, 400), copy("u", 0, 100)], 1_000);
  expect(progress.text()).toBe("0 states, 0/s; 2 tables to copy");
  progress.see([copy("t", 100, 400), copy("u", 0, 100)], 2_000);
  expect(progress.text()).toBe("100 of 500 states, 100/s, 4 s left");
  expect(progress.seconds).toBe(1);
});

test("a table that is done leaves the list, and its rows stay counted", () => {
  const progress = new CopyProgress(0);
  progress.see([copy("t", 390, 400), copy("u", 0, 100)], 1_000);
  progress.see([copy("u", 50, 100)], 2_000);
  expect(progress.done).toBe(450);
  progress.see([], 4_000);
  expect(progress.done).toBe(500);
  expect(progress.text()).toBe("500 of 500 states, 125/s, 0 s left");
});

test("no time is told before all tables are counted", () => {
  const progress = new CopyProgress(0);
  progress.see([copy("t", 10, 20), copy("u", 0, null)], 1_000);
  expect(progress.text()).toBe("10 states, 10/s; 2 tables to copy");
});

test("tables that do not fit are not waited for, and not counted as done", () => {
  const progress = new CopyProgress(0);
  progress.see([copy("t", 10, 20), copy("u", 0, 5, "a column is missing")], 1_000);
  expect(progress.text()).toBe("10 of 20 states, 10/s, 1 s left");
  progress.see([copy("u", 0, 5, "a column is missing")], 2_000);
  expect(progress.done).toBe(20);
});

test("the same table of two peers is two copies", () => {
  const progress = new CopyProgress(0);
  progress.see([copy("t", 1, 2), { ...copy("t", 3, 4), origin: 2 }], 1_000);
  expect(progress.text()).toBe("4 of 6 states, 4/s, 1 s left");
});

test("a copy that begins anew does not count twice", () => {
  const progress = new CopyProgress(0);
  progress.see([copy("t", 100, 100)], 1_000);
  progress.see([copy("t", 0, 100)], 2_000);
  expect(progress.done).toBe(0);
  progress.see([], 3_000);
  expect(progress.done).toBe(100);
});
