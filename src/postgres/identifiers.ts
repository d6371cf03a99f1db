import { escapeIdentifier, escapeLiteral } from "pg";

/** The only place where names become SQL text; values are bound, never spliced. */
export const identifier = (name: string): string => escapeIdentifier(name);
export const qualified = (schema: string, name: string): string =>
  `${escapeIdentifier(schema)}.${escapeIdentifier(name)}`;
/** For DDL, which takes no parameters. */
export const literal = (text: string): string => escapeLiteral(text);
export const list = (names: readonly string[], prefix = ""): string =>
  names.map((name) => prefix + escapeIdentifier(name)).join(", ");
