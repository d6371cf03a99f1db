import { isUtf8 } from "node:buffer";
import { Problem } from "../problems.ts";
import type { JsonValue, RawNumber } from "./operation.ts";

/**
 * JSON from callers, with every digit kept: a number that a JavaScript number does not hold as it was written stands as
 * `JSON.rawJSON` (a bigint, a numeric with trailing zeros). Members called `__proto__` are members like others.
 */

interface RawJson {
  isRawJSON(value: unknown): value is RawNumber;
  rawJSON(text: string): RawNumber;
  parse(
    text: string,
    reviver: (name: string, value: unknown, context: { source?: string }) => unknown,
  ): unknown;
}
// In Node since 22; TypeScript's library does not have it yet.
const rawJson = JSON as unknown as RawJson;

export const isRawNumber = (value: unknown): value is RawNumber => rawJson.isRawJSON(value);

export const maxDepth = 64;

/**
 * Only a text with such a number is worth the slower way: a fraction, an exponent, 16 digits, minus zero. Where a number may
 * stand, so that the usual `"1.50"` and times of day do not count; in a text it may be taken for one, which is slow and not
 * wrong.
 */
const roundable = /(?:^|"\s*:|[,[])\s*-?(?:\d+[.eE]|\d{16}|(?<=-)0)/;
/** Escapes of NUL and of surrogates, of which a half may stand alone. */
const suspicious = /\\u(?:0000|[dD][89a-fA-F])/;

/**
 * @throws Problem `body-malformed`: no UTF-8, no JSON, deeper than `maxDepth`, or with text that PostgreSQL cannot hold
 */
export const parseJson = (bytes: Buffer): JsonValue => {
  if (!isUtf8(bytes)) throw new Problem("body-malformed", "the body is not UTF-8");
  const text = bytes.toString("utf8");
  if (isTooDeep(text)) {
    throw new Problem("body-malformed", `the body is nested more than ${maxDepth} levels deep`);
  }
  const value = parsed(text);
  if (suspicious.test(text)) requireText(value);
  return value;
};

const parsed = (text: string): JsonValue => {
  try {
    if (!roundable.test(text)) return JSON.parse(text) as JsonValue;
    return rawJson.parse(text, (_name, value, { source }) =>
      typeof value === "number" && source !== undefined && String(value) !== source
        ? rawJson.rawJSON(source)
        : value,
    ) as JsonValue;
  } catch (error) {
    // V8 quotes the text around the place, which is the caller's own.
    throw new Problem("body-malformed", error instanceof SyntaxError ? error.message : "the body is no JSON");
  }
};

const [quote, backslash, openList, closeList, openObject, closeObject] = [34, 92, 91, 93, 123, 125];

/** Looks at brackets outside of strings, before a parser recurses. One pass, whatever the text is. */
const isTooDeep = (text: string): boolean => {
  let depth = 0;
  let inString = false;
  for (let at = 0; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    if (inString) {
      if (code === backslash) at += 1;
      else if (code === quote) inString = false;
    } else if (code === quote) inString = true;
    else if (code === openList || code === openObject) {
      depth += 1;
      if (depth > maxDepth) return true;
    } else if (code === closeList || code === closeObject) depth -= 1;
  }
  return false;
};

const requireText = (value: JsonValue): void => {
  if (typeof value === "string") {
    if (!value.isWellFormed()) throw new Problem("body-malformed", "a text holds half of a surrogate pair");
    if (value.includes("\0")) throw new Problem("body-malformed", "a text holds the character NUL");
  } else if (Array.isArray(value)) {
    for (const item of value as readonly JsonValue[]) requireText(item);
  } else if (value !== null && typeof value === "object" && !isRawNumber(value)) {
    for (const [name, member] of Object.entries(value)) {
      requireText(name);
      requireText(member);
    }
  }
};
