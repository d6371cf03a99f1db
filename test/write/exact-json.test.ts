import fc from "fast-check";
import { expect, test } from "vitest";
import { isRawNumber, parseJson } from "../../src/write/exact-json.ts";

const parse = (text: string): unknown => parseJson(Buffer.from(text));

test("is what JSON.parse makes of it, but for numbers that would change", () => {
  fc.assert(
    fc.property(fc.json(), (text) => {
      expect(JSON.stringify(parse(text))).toBe(JSON.stringify(JSON.parse(text)));
    }),
  );
  expect(parse("[1, 0.5, 123]")).toEqual([1, 0.5, 123]);
});

test.each(["1.10", "12345678901234567890", "1e400", "-0", "0.1000", "9007199254740993", "1E5"])(
  "%s keeps its digits",
  (text) => {
    for (const json of [`[${text}]`, `[\n ${text}\t]`, `["x",${text}]`, `{"a" : ${text}}`, ` ${text} `]) {
      const parsed = parse(json);
      const value: unknown = isRawNumber(parsed) ? parsed : Object.values(parsed as object).at(-1);
      expect(isRawNumber(value), json).toBe(true);
      expect(JSON.stringify({ value })).toBe(`{"value":${text}}`);
    }
  },
);

test("__proto__ is a member like others", () => {
  const value = parse('{"__proto__":{"x":1},"constructor":2,"y":1.0}') as Record<string, unknown>;
  expect(Object.keys(value)).toEqual(["__proto__", "constructor", "y"]);
  expect(Object.getPrototypeOf(value)).toBe(Object.prototype);
});

test("text may stand anywhere that JSON has text; brackets in it do not count as depth", () => {
  expect(parse(JSON.stringify({ a: "[".repeat(500), '{\\"': '"[[' }))).toEqual({
    a: "[".repeat(500),
    '{\\"': '"[[',
  });
  expect(parse(`${"[".repeat(64)}${"]".repeat(64)}`)).toBeDefined();
  expect(parse('"\\ud83d\\ude00"')).toBe("😀");
});

test.each([
  ["", "no JSON"],
  ["{", "half of an object"],
  ['{"a":1,}', "a comma too many"],
  ["[1] x", "something behind it"],
  ["NaN", "no number of JSON"],
  ['"\t"', "a bare control character"],
  ["\ufeff{}", "a byte order mark"],
  ['"\\u0000"', "NUL"],
  ['{"\\u0000":1}', "NUL in a name"],
  ['["\\ud800"]', "half of a pair"],
  ['{"a":["\\udc00\\ud800"]}', "a pair the wrong way round"],
  ["[".repeat(65), "too deep"],
  ['{"a":'.repeat(100_000), "far too deep"],
])("%# is refused: %2$s", (text) => {
  expect(() => parse(text)).toThrow(expect.objectContaining({ code: "body-malformed" }));
});

test("bytes that are not UTF-8 are refused, and long texts of escapes cost one pass", () => {
  expect(() => parseJson(Buffer.from([0x22, 0xff, 0x22]))).toThrow(/UTF-8/);
  expect(() => parse(`"${'\\"'.repeat(500_000)}`)).toThrow(
    expect.objectContaining({ code: "body-malformed" }),
  );
});
