import { DatabaseError } from "pg";
import { describe, expect, test } from "vitest";
import { Problem, problemCodes } from "../../src/problems.ts";
import { isCatalogStale, problemCodeOf, problemOf, StaleCatalog } from "../../src/write/sql-problems.ts";

const databaseError = (code: string, facts: object = {}): DatabaseError =>
  Object.assign(new DatabaseError("its words", 1, "error"), { code, severity: "ERROR", ...facts });

describe("SQLSTATE to problem", () => {
  test.each([
    ["22P02", "value-invalid", 400],
    ["22003", "value-invalid", 400],
    ["22021", "value-invalid", 400],
    ["23502", "not-null-violation", 422],
    ["23503", "foreign-key-violation", 422],
    ["23505", "unique-violation", 409],
    ["23514", "check-violation", 422],
    ["23P01", "exclusion-violation", 409],
    ["40001", "contention", 503],
    ["40P01", "contention", 503],
    ["55P03", "contention", 503],
    ["42501", "permission-denied", 403],
    ["42883", "parameter-invalid", 400],
    ["57014", "statement-timeout", 503],
    ["57P01", "database-unavailable", 503],
    ["53300", "database-unavailable", 503],
    ["53100", "database-unavailable", 503],
    ["25006", "database-unavailable", 503],
    ["08006", "database-unavailable", 503],
    ["P0001", "refused-by-database", 422],
    ["40003", "internal", 500],
    ["42601", "internal", 500],
    ["XX000", "internal", 500],
    ["ZZ123", "internal", 500],
  ])("%s is %s", (state, code, status) => {
    const problem = problemOf(databaseError(state));
    expect([problem.code, problem.status, problem.facts.sqlState]).toEqual([code, status, state]);
  });

  test("every code that is named is known", () => {
    for (let at = 0; at < 36 ** 2; at += 1) {
      const code = problemCodeOf(`${at.toString(36).padStart(2, "0").toUpperCase()}000`);
      expect(code === null || code in problemCodes).toBe(true);
    }
  });
});

test("the server's words are shown where they are about the request, and a row's contents never", () => {
  const unique = { constraint: "c", detail: "Key (a)=(b) already exists." };
  expect(problemOf(databaseError("23505", unique))).toMatchObject({
    message: "its words. Key (a)=(b) already exists.",
    facts: { constraint: "c" },
  });
  expect(problemOf(databaseError("23514", { detail: "Failing row contains (1, secret)." })).message).toBe(
    "its words",
  );
  for (const state of ["57P01", "XX000", "08006"]) {
    expect(problemOf(databaseError(state)).message).not.toContain("words");
  }
});

test("a function of the application's that is broken is no fault of the request's, and no reason to read the catalog", () => {
  const error = databaseError("42P01", { internalQuery: "SELECT * FROM missing" });
  expect(problemOf(error).code).toBe("internal");
  expect(isCatalogStale(error)).toBe(false);
});

test("connections that break, and what is known already", () => {
  const reset = Object.assign(new Error("read ECONNRESET"), { code: "ECONNRESET" });
  expect(problemOf(reset)).toMatchObject({ code: "database-unavailable", retryable: true });
  expect(problemOf(new Error("Connection terminated unexpectedly")).code).toBe("database-unavailable");
  expect(problemOf(new TypeError("x")).code).toBe("internal");
  const known = new Problem("row-not-found", "x");
  expect(problemOf(known)).toBe(known);
});

test("what shows that the catalog is old: also as the cause of a problem", () => {
  for (const state of ["42P01", "42703", "42704", "0A000", "26000"]) {
    expect(isCatalogStale(databaseError(state)), state).toBe(true);
    expect(isCatalogStale(problemOf(databaseError(state))), state).toBe(true);
  }
  expect(isCatalogStale(problemOf(new StaleCatalog()))).toBe(true);
  expect(isCatalogStale(databaseError("23505"))).toBe(false);
});
