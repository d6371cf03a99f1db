const fromEnv = (name: string): number | undefined => {
  const value = process.env[name];
  return value === undefined || value === "" ? undefined : Number(value);
};

/**
 * How often a property is tried: COREGENT_RUNS, else `usual`. With COREGENT_SEED it is tried with that seed; a failure
 * prints its seed and its smallest counterexample.
 */
export const runs = (usual: number): { numRuns: number; seed?: number } => {
  const seed = fromEnv("COREGENT_SEED");
  return { numRuns: fromEnv("COREGENT_RUNS") ?? usual, ...(seed === undefined ? {} : { seed }) };
};
