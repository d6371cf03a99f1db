import process from "node:process";
import * as fc from "fast-check";

/**
 * COREGENT_SEED makes every property test of a run try the same cases again. Without it each run tries new ones, and a
 * failure prints the seed.
 */
const seed = process.env["COREGENT_SEED"] ?? "";
if (/^-?\d+$/.test(seed)) {
  fc.configureGlobal({ ...fc.readConfigureGlobal(), seed: Number(seed) });
}
