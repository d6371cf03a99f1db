import { maxSeed } from "../../src/demo/random.ts";

/** Of a command line's option. @throws Error, for people */
export const wholeNumber = (text: string, name: string, min: number): number => {
  const value = Number(text);
  if (!Number.isInteger(value) || value < min || value > maxSeed)
    throw new Error(`${name} is not such a number: ${text}`);
  return value;
};
