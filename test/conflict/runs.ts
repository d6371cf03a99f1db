import process from "node:process";

/** How often a property is tried: COREGENT_RUNS, else `usual`. */
export const runs = (usual: number): { numRuns: number } => ({
  numRuns: Number(process.env["COREGENT_RUNS"] ?? "") || usual,
});
