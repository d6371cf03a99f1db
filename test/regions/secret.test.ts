import { format, inspect } from "node:util";
import * as fc from "fast-check";
import { expect, test } from "vitest";
import { postgresUrl, readPostgresUrl, type Secret } from "../../regions/secret.ts";

const shownInEveryWay = (secret: Secret): string[] => [
  String(secret),
  [secret].join(),
  JSON.stringify({ secret }),
  inspect({ deep: { secret } }, { showHidden: true, depth: 9 }),
  format("%s %o %O %j", secret, secret, secret, secret),
];

test("shows its mask, and gives its text on demand only", () => {
  const secret = postgresUrl("postgres://app:hunter2@host:5432/weightbook");
  expect(String(secret)).toBe("postgres://app:***@host:5432/weightbook");
  expect(secret.reveal()).toBe("postgres://app:hunter2@host:5432/weightbook");
  for (const shown of shownInEveryWay(secret)) {
    expect(shown).toContain("postgres://app:***@host:5432/weightbook");
    expect(shown).not.toContain("hunter2");
  }
});

test.each([
  ["postgres://host/db", "postgres://host/db"],
  ["postgresql://app@host/db", "postgresql://app@host/db"],
  ["postgres://:pw@host/db", "postgres://:***@host/db"],
  ["postgres:///db?host=/run/postgresql", "postgres:///db?host=/run/postgresql"],
  ["postgres://[::1]:5433/db", "postgres://[::1]:5433/db"],
  [
    "postgres://app:pw@host/db?sslmode=require&password=pw2&sslpassword=pw3",
    "postgres://app:***@host/db?sslmode=require&password=***&sslpassword=***",
  ],
])("%s shows as %s", (url, shown) => {
  expect(String(postgresUrl(url))).toBe(shown);
});

test.each([
  ["a slash in the password", "postgres://app:12/ca@nary@host/db"],
  ["a question mark in the password", "postgres://app:12?canary@host/db"],
  ["a hash in the password", "postgres://app:12#canary@host/db"],
  ["a percent sign in the password", "postgres://app:canary%zz@host/db"],
  ["no database", "postgres://app:canary@host"],
  ["another protocol", "https://app:canary@host/db"],
  ["a port that is none", "postgres://app:canary@host:99999/db"],
  ["no URL", "canary"],
])("%s is refused without repeating it", (_, url) => {
  const { problem } = readPostgresUrl(url);
  expect(problem).toBeDefined();
  expect(problem).not.toMatch(/ca.?nary/);
  expect(() => postgresUrl(url)).toThrow(TypeError);
});

test("no password shows, whatever it is", () => {
  fc.assert(
    fc.property(fc.string({ unit: "grapheme", maxLength: 30 }), (text) => {
      // Markers at both ends, so that a part cut off by a "/" or "#" is seen as well.
      const read = readPostgresUrl(`postgres://app:qqx${text}xqq@host.example:5432/weightbook`);
      const shown = read.problem === undefined ? shownInEveryWay(read.secret) : [read.problem];
      for (const one of shown) {
        expect(one).not.toMatch(/qqx|xqq/);
      }
    }),
    { numRuns: 2_000 },
  );
});
