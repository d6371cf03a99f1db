import { Problem } from "../problems.ts";
import type { Key, RowVersion, VersionMatch } from "../write/operation.ts";
import { decoded } from "./query-string.ts";

/** What stands in headers and in the path, as text and as values. */

/** `"VERSION"`, or `"BASE.VERSION"` where the table has owners. */
export const etag = ({ version, base }: RowVersion): string =>
  base === null ? `"${version}"` : `"${base}.${version}"`;

const maxEtags = 20;
const maxVersion = (1n << 63n) - 1n;

/** Of one tag's inside; null for what no row has. */
const parseVersion = (text: string): RowVersion | null => {
  const [, base, version] = /^(?:(\d{1,19})\.)?(\d{1,19})$/.exec(text) ?? [];
  if (version === undefined) return null;
  const row = { version: BigInt(version), base: base === undefined ? null : BigInt(base) };
  return row.version > maxVersion || (row.base ?? 0n) > maxVersion ? null : row;
};

/**
 * Of `If-Match` or `If-None-Match`; null where there is none. A tag that no row has is left out, so that it matches none.
 * @throws Problem `parameter-invalid`
 */
export const parseMatch = (header: string | undefined, name: string): VersionMatch | null => {
  if (header === undefined) return null;
  if (header.trim() === "*") return "any";
  const tags = header.split(",").map((tag) => /^\s*(?:W\/)?"([\x21\x23-\x7e]*)"\s*$/.exec(tag)?.[1]);
  if (tags.length > maxEtags || tags.includes(undefined)) {
    throw new Problem("parameter-invalid", `${name} takes *, or up to ${maxEtags} ETags in double quotes`);
  }
  return tags.map((tag) => parseVersion(tag ?? "")).filter((version) => version !== null);
};

const preconditions = ["if-match", "if-none-match"] as const;

/**
 * Where a precondition is not heeded it is refused: to go without would be a broken promise.
 * @throws Problem `parameter-invalid`
 */
export const refuseOthers = (
  headers: Readonly<Record<string, unknown>>,
  heeded: readonly (typeof preconditions)[number][],
): void => {
  const other = preconditions.find((name) => headers[name] !== undefined && !heeded.includes(name));
  if (other === undefined) return;
  const name = other === "if-match" ? "If-Match" : "If-None-Match";
  throw new Problem("parameter-invalid", `${name} is not taken here`);
};

/** A key as a path has it: its parts percent-encoded, with commas between. */
export const keyPath = (key: Key): string => key.map(encodeURIComponent).join(",");

/** `parts`: how many columns the key has. A comma in a part is `%2C`; where there is one part, it may stand as it is. */
export const parseKeyPath = (path: string, parts: number): Key =>
  (parts === 1 ? [path] : path.split(",")).map((part) => decoded(part, "the key"));

export interface Preferences {
  readonly return: "minimal" | "representation" | null;
  readonly countExact: boolean;
  /** Milliseconds. */
  readonly waitMs: number | null;
  readonly durable: { readonly regions: number } | null;
  readonly mergeDuplicates: boolean;
  /** Those that are understood, as they will be applied. */
  readonly applied: readonly string[];
}

export const maxWaitMs = 30_000;
const maxDurable = 1_000;

/**
 * Of `Prefer` (RFC 7240). What is not understood is passed over, as the RFC wants it, but a wait or a durability that cannot
 * be understood is refused: to go without would be a broken promise.
 * @throws Problem `parameter-invalid`
 */
export const parsePrefer = (header: string | readonly string[] | undefined): Preferences => {
  const text = typeof header === "string" ? header : (header?.join(",") ?? "");
  const given = new Map<string, string>();
  for (const item of text.split(/[,;]/)) {
    const [, name, value] = /^\s*([\w-]+)\s*(?:=\s*"?([^"\s]*)"?\s*)?$/.exec(item) ?? [];
    if (name === undefined && /^\s*(?:wait|durable)\b/i.test(item)) {
      throw new Problem("parameter-invalid", "Prefer: wait and durable take a whole number, as in wait=5");
    }
    if (name !== undefined && !given.has(name.toLowerCase())) given.set(name.toLowerCase(), value ?? "");
  }
  const wanted = given.get("return");
  const waitS = number(given, "wait", Number.MAX_SAFE_INTEGER);
  const durable = number(given, "durable", maxDurable);
  const preferences: Omit<Preferences, "applied"> = {
    return: wanted === "minimal" || wanted === "representation" ? wanted : null,
    countExact: given.get("count") === "exact",
    waitMs: waitS === null ? null : Math.min(waitS * 1000, maxWaitMs),
    durable: durable === null ? null : { regions: durable },
    mergeDuplicates: given.get("resolution") === "merge-duplicates",
  };
  return { ...preferences, applied: appliedOf(preferences) };
};

const appliedOf = (preferences: Omit<Preferences, "applied">): string[] => [
  ...(preferences.return === null ? [] : [`return=${preferences.return}`]),
  ...(preferences.countExact ? ["count=exact"] : []),
  ...(preferences.waitMs === null ? [] : [`wait=${preferences.waitMs / 1000}`]),
  ...(preferences.durable === null ? [] : [`durable=${preferences.durable.regions}`]),
  ...(preferences.mergeDuplicates ? ["resolution=merge-duplicates"] : []),
];

const number = (given: ReadonlyMap<string, string>, name: string, most: number): number | null => {
  const text = given.get(name);
  if (text === undefined) return null;
  if (!/^\d{1,15}$/.test(text) || Number(text) > most) {
    throw new Problem("parameter-invalid", `Prefer: ${name} takes a whole number up to ${most}`);
  }
  return Number(text);
};

/**
 * Of `Idempotency-Key`, with or without the quotes of its draft; null where there is none.
 * @throws Problem `parameter-invalid`
 */
export const parseIdempotencyKey = (header: string | readonly string[] | undefined): string | null => {
  if (header === undefined) return null;
  const [, quoted, plain] =
    /^(?:"([\x20-\x21\x23-\x7e]{1,255})"|([\x21\x23-\x7e]{1,255}))$/.exec(String(header)) ?? [];
  const key = quoted ?? plain;
  if (key === undefined) {
    throw new Problem("parameter-invalid", "Idempotency-Key takes 1 to 255 characters of ASCII");
  }
  return key;
};
