import { createHash } from "node:crypto";
import { remembered } from "../remembered.ts";
import type { Catalog } from "./catalog.ts";

const maxPrepared = 200;
const namesIn = remembered((_catalog: Catalog) => new Map<string, string>());

/** The name under which a statement stays prepared in each session; undefined: it does not, the names are used up. */
export const preparedName = (text: string, catalog: Catalog): string | undefined => {
  const names = namesIn(catalog);
  let name = names.get(text);
  if (name === undefined && names.size < maxPrepared) {
    const digest = createHash("sha256").update(text).digest("hex").slice(0, 24);
    name = `cg_${digest}_${catalog.generation}`;
    names.set(text, name);
  }
  return name;
};
