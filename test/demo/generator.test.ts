import { describe, expect, test } from "vitest";
import { generatePeople, type Person } from "../../src/demo/generator.ts";
import { seeded } from "../../src/demo/random.ts";
import { weightbookSchema } from "../../src/demo/schema.ts";
import { createDatabase } from "../support/database.ts";
import { insertPerson } from "../../src/demo/load.ts";

const options = { seed: 7, region: "moldova", people: 12, weeks: 20, nowMs: Date.UTC(2026, 5, 1) };

describe("the generator of Weightbook's data", () => {
  test("one seed gives the same people, keys included; another seed or region gives others", () => {
    const people = [...generatePeople(options)];
    expect([...generatePeople(options)]).toEqual(people);
    const others = [
      ...generatePeople({ ...options, seed: 8 }),
      ...generatePeople({ ...options, region: "argentina" }),
    ];
    const keys = new Set(people.map((person) => person.user.id));
    expect(others.filter((person) => keys.has(person.user.id))).toEqual([]);
  });

  test("keys are unique ULIDs of their rows' times", () => {
    const people = [...generatePeople({ ...options, people: 60 })];
    const rows = people.flatMap(({ user, weighIns, workouts }) => [user, ...weighIns, ...workouts]);
    expect(new Set(rows.map((row) => row.id)).size).toBe(rows.length);
    for (const person of people.slice(0, 5)) {
      const ms = Number.parseInt(person.user.id.replaceAll("-", "").slice(0, 12), 16);
      expect(new Date(ms).toISOString()).toBe(person.user.created_at);
    }
  });

  test("what is written looks like people: weights, heights and gaps between workouts", () => {
    const people = [...generatePeople({ ...options, people: 200 })];
    for (const { user, weighIns } of people) {
      const index = Number(weighIns[0]?.weight_kg ?? 70) / (user.height_cm / 100) ** 2;
      expect(index).toBeGreaterThan(15);
      expect(index).toBeLessThan(42);
    }
    expect(people.every((person) => person.workouts.length > 2)).toBe(true);
  });

  test("PostgreSQL takes every row, constraints and foreign keys included", async () => {
    await using db = await createDatabase();
    const session = await db.connect();
    await session.query(weightbookSchema);
    const people: Person[] = [];
    for (const region of ["moldova", "argentina", "new-zealand", "elsewhere"]) {
      people.push(...generatePeople({ ...options, region }));
    }
    for (const person of people) {
      await insertPerson(session, person);
    }
    const [counts] = await db.query(
      `SELECT (SELECT count(*)::int FROM users) AS users, (SELECT count(*)::int FROM weigh_ins) AS weigh_ins,
              (SELECT count(*)::int FROM workouts) AS workouts, (SELECT count(*)::int FROM workout_sets) AS sets`,
    );
    expect(counts).toEqual({
      users: people.length,
      weigh_ins: people.reduce((sum, person) => sum + person.weighIns.length, 0),
      workouts: people.reduce((sum, person) => sum + person.workouts.length, 0),
      sets: people.reduce((sum, person) => sum + person.sets.length, 0),
    });
  });
});

test("seeded numbers are in their bounds and spread over them", () => {
  const random = seeded(1);
  const seen = new Set<number>();
  for (let count = 0; count < 2000; count += 1) {
    const value = random.integer(3, 7);
    seen.add(value);
    expect(value >= 3 && value <= 7).toBe(true);
    expect(Number.isFinite(random.normal(0, 1))).toBe(true);
  }
  expect([...seen].toSorted((a, b) => a - b)).toEqual([3, 4, 5, 6, 7]);
});
