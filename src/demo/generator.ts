import { ulid, ulidToUUID } from "ulid";
import { namesOf, routines, weighInNotes, type Routine } from "./people.ts";
import { seeded, type Random } from "./random.ts";

/** One person and all that hangs on him or her: what an application would write in one transaction. */
export interface Person {
  readonly user: UserRow;
  readonly weighIns: readonly WeighInRow[];
  readonly workouts: readonly WorkoutRow[];
  readonly sets: readonly SetRow[];
}

/** Rows by column name; dates and times as ISO text, numerics as text, as PostgreSQL takes and gives them. */
export interface UserRow {
  readonly id: string;
  readonly name: string;
  readonly home_region: string;
  readonly born: string;
  readonly height_cm: number;
  readonly goal_kg: string | null;
  readonly created_at: string;
}

export interface WeighInRow {
  readonly id: string;
  readonly user_id: string;
  readonly taken_at: string;
  readonly weight_kg: string;
  readonly note: string | null;
}

export interface WorkoutRow {
  readonly id: string;
  readonly user_id: string;
  readonly home_region: string;
  readonly started_at: string;
  readonly title: string;
  readonly minutes: number;
  readonly tags: readonly string[];
}

export interface SetRow {
  readonly workout_id: string;
  readonly position: number;
  readonly home_region: string;
  readonly exercise: string;
  readonly repetitions: number;
  readonly weight_kg: string | null;
}

export interface GeneratorOptions {
  readonly seed: number;
  readonly region: string;
  readonly people: number;
  /** How many weeks of history each person has at most. */
  readonly weeks: number;
  /** The end of the history, in ms since 1970. */
  readonly nowMs: number;
}

const dayMs = 86_400_000;

/** The people of one region. The same options give the same rows, keys included. */
export const generatePeople = function* (options: GeneratorOptions): Generator<Person> {
  const random = seeded(options.seed, options.region);
  for (let count = 0; count < options.people; count += 1) {
    yield generatePerson(options, random);
  }
};

const generatePerson = (options: GeneratorOptions, random: Random): Person => {
  const { region, nowMs } = options;
  const names = namesOf(region);
  const weeks = random.integer(Math.ceil(options.weeks / 3), options.weeks);
  const joinedMs = nowMs - weeks * 7 * dayMs + random.integer(0, dayMs);
  const heightCm = Math.round(clamp(random.normal(171, 9), 148, 205));
  const startKg = clamp(random.normal(24.5, 3.2), 18, 38) * (heightCm / 100) ** 2;
  const user: UserRow = {
    id: keyAt(joinedMs, random),
    name: `${random.pick(names.first)} ${random.pick(names.last)}`,
    home_region: region,
    born: new Date(Date.UTC(random.integer(1955, 2007), random.integer(0, 11), random.integer(1, 28)))
      .toISOString()
      .slice(0, 10),
    height_cm: heightCm,
    goal_kg: random.chance(0.7) ? kg(startKg * random.normal(0.93, 0.03)) : null,
    created_at: new Date(joinedMs).toISOString(),
  };
  const weighIns = generateWeighIns({ user, startKg, joinedMs, nowMs }, random);
  const workouts: WorkoutRow[] = [];
  const sets: SetRow[] = [];
  const strength = clamp(random.normal(1, 0.25), 0.4, 1.8);
  for (let startedMs = nextWorkout(joinedMs, random); startedMs < nowMs;) {
    const routine = random.pick(routines);
    const workout = workoutOf(user, { routine, startedMs }, random);
    workouts.push(workout);
    sets.push(...setsOf(workout, { routine, strength }, random));
    startedMs = nextWorkout(startedMs, random);
  }
  return { user, weighIns, workouts, sets };
};

interface History {
  readonly user: UserRow;
  readonly startKg: number;
  readonly joinedMs: number;
  readonly nowMs: number;
}

/** Weight drifts slowly towards the goal (or nowhere), with a day's noise; people weigh themselves when they like. */
const generateWeighIns = (history: History, random: Random): WeighInRow[] => {
  const { user, startKg, joinedMs, nowMs } = history;
  const targetKg = user.goal_kg === null ? startKg : Number(user.goal_kg);
  const zeal = random.next();
  const rows: WeighInRow[] = [];
  for (let dayStart = joinedMs; dayStart < nowMs - dayMs; dayStart += dayMs) {
    if (!random.chance(0.15 + 0.6 * zeal)) {
      continue;
    }
    const progress = 1 - Math.exp(-(dayStart - joinedMs) / (120 * dayMs));
    const trendKg = startKg + (targetKg - startKg) * progress * zeal;
    const takenMs = dayStart + random.integer(0, 3 * 3_600_000);
    rows.push({
      id: keyAt(takenMs, random),
      user_id: user.id,
      taken_at: new Date(takenMs).toISOString(),
      weight_kg: kg(clamp(random.normal(trendKg, 0.5), 30, 250)),
      note: random.chance(0.04) ? random.pick(weighInNotes) : null,
    });
  }
  return rows;
};

const nextWorkout = (afterMs: number, random: Random): number =>
  afterMs + random.integer(1, 5) * dayMs + random.integer(-4, 4) * 3_600_000;

const workoutOf = (
  user: UserRow,
  { routine, startedMs }: { readonly routine: Routine; readonly startedMs: number },
  random: Random,
): WorkoutRow => ({
  id: keyAt(startedMs, random),
  user_id: user.id,
  home_region: user.home_region,
  started_at: new Date(startedMs).toISOString(),
  title: routine.title,
  minutes: random.integer(...routine.minutes),
  tags: routine.tags,
});

const setsOf = (
  workout: WorkoutRow,
  { routine, strength }: { readonly routine: Routine; readonly strength: number },
  random: Random,
): SetRow[] =>
  routine.exercises
    .flatMap((exercise) => Array.from({ length: random.integer(1, 3) }, () => exercise))
    .map(([exercise, average], index) => ({
      workout_id: workout.id,
      position: index + 1,
      home_region: workout.home_region,
      exercise,
      repetitions: random.integer(4, 12),
      // Plates come in pairs of 1.25 kg.
      weight_kg:
        average === null
          ? null
          : (Math.round((average * strength * random.normal(1, 0.08)) / 2.5) * 2.5).toFixed(2),
    }));

/** A ULID of that time, in the form of a uuid. */
const keyAt = (ms: number, random: Random): string => ulidToUUID(ulid(ms, () => random.next())).toLowerCase();

const kg = (value: number): string => value.toFixed(2);

const clamp = (value: number, low: number, high: number): number => Math.min(high, Math.max(low, value));
