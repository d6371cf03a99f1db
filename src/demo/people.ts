/** What the generator draws from. First names and surnames that are common where a region's people live. */
export interface Names {
  readonly first: readonly [string, ...string[]];
  readonly last: readonly [string, ...string[]];
}

const moldova: Names = {
  first: [
    "Ana",
    "Ion",
    "Maria",
    "Vasile",
    "Elena",
    "Andrei",
    "Natalia",
    "Mihai",
    "Doina",
    "Sergiu",
    "Cristina",
  ],
  last: ["Rusu", "Ceban", "Ciobanu", "Țurcan", "Munteanu", "Sîrbu", "Lungu", "Popa", "Rotaru", "Cojocaru"],
};

const argentina: Names = {
  first: [
    "Sofía",
    "Mateo",
    "Valentina",
    "Joaquín",
    "Lucía",
    "Tomás",
    "Martina",
    "Benjamín",
    "Camila",
    "Thiago",
  ],
  last: [
    "González",
    "Rodríguez",
    "Gómez",
    "Fernández",
    "López",
    "Díaz",
    "Peralta",
    "Núñez",
    "Ibáñez",
    "Sosa",
  ],
};

const newZealand: Names = {
  first: [
    "Aroha",
    "Liam",
    "Charlotte",
    "Wiremu",
    "Isla",
    "Jack",
    "Anahera",
    "Noah",
    "Mere",
    "Oliver",
    "Hana",
  ],
  last: [
    "Walker",
    "Ngata",
    "Wilson",
    "Te Rangi",
    "Brown",
    "Parata",
    "Thompson",
    "Taylor",
    "Williams",
    "Māhuta",
  ],
};

const byRegion: ReadonlyMap<string, Names> = new Map([
  ["moldova", moldova],
  ["argentina", argentina],
  ["new-zealand", newZealand],
]);

/** A region that is not one of the demo's gets names of all three. */
export const namesOf = (region: string): Names =>
  byRegion.get(region) ?? {
    first: [...moldova.first, ...argentina.first, ...newZealand.first],
    last: [...moldova.last, ...argentina.last, ...newZealand.last],
  };

export interface Routine {
  readonly title: string;
  readonly tags: readonly string[];
  readonly minutes: readonly [low: number, high: number];
  /** Exercises with the weight that an average lifter moves, in kg; null: the body's own. */
  readonly exercises: readonly (readonly [name: string, kg: number | null])[];
}

export const routines: readonly [Routine, ...Routine[]] = [
  {
    title: "Push day",
    tags: ["strength", "upper body"],
    minutes: [40, 75],
    exercises: [
      ["Bench press", 60],
      ["Overhead press", 35],
      ["Dips", null],
    ],
  },
  {
    title: "Pull day",
    tags: ["strength", "upper body"],
    minutes: [40, 75],
    exercises: [
      ["Deadlift", 95],
      ["Pull-ups", null],
      ["Barbell row", 50],
    ],
  },
  {
    title: "Leg day",
    tags: ["strength", "legs"],
    minutes: [45, 80],
    exercises: [
      ["Back squat", 80],
      ["Lunges", 30],
      ["Calf raises", 60],
    ],
  },
  { title: "Morning run", tags: ["cardio"], minutes: [25, 60], exercises: [] },
  { title: "Swim", tags: ["cardio"], minutes: [30, 50], exercises: [] },
  {
    title: "Kettlebells",
    tags: ["strength", "cardio"],
    minutes: [20, 40],
    exercises: [
      ["Swings", 20],
      ["Turkish get-up", 14],
    ],
  },
];

export const weighInNotes: readonly [string, ...string[]] = [
  "after breakfast",
  "after a run",
  "new scales",
  "travelling",
  "felt heavier than this",
];
