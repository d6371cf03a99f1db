import { describe, expect, test } from "vitest";
import * as fc from "fast-check";
import {
  type Operation,
  type Reaction,
  reactionTo,
  reactionToSqlState,
  sqlStateOf,
} from "../../src/postgres/sqlstate.ts";

const serverError = (code: string, message = "said the server"): Error =>
  Object.assign(new Error(message), { code, severity: "ERROR" });

describe("reactions to SQLSTATEs", () => {
  const table: readonly (readonly [string, Operation, Reaction])[] = [
    ["40001", "merge", "retry"],
    ["40P01", "merge", "retry"],
    ["40002", "merge", "quarantine"],
    ["55P03", "merge", "retry"],
    ["55006", "stream", "retry"],
    ["57014", "merge", "retry"],
    ["57P01", "stream", "retry"],
    ["57P02", "session", "retry"],
    ["57P03", "session", "retry"],
    ["57P04", "session", "stop"],
    ["57P05", "session", "retry"],
    ["53100", "merge", "retry"],
    ["53200", "merge", "retry"],
    ["53300", "session", "retry"],
    ["08006", "session", "retry"],
    ["08P01", "stream", "retry"],
    ["25006", "merge", "retry"],
    ["25P04", "merge", "retry"],
    ["22001", "merge", "quarantine"],
    ["22P02", "merge", "quarantine"],
    ["22023", "stream", "stop"],
    ["23502", "merge", "quarantine"],
    ["23505", "merge", "quarantine"],
    ["23514", "merge", "quarantine"],
    ["54000", "merge", "quarantine"],
    ["P0001", "merge", "quarantine"],
    ["P0001", "session", "stop"],
    ["42704", "stream", "resync"],
    ["42704", "session", "stop"],
    ["55000", "stream", "resync"],
    ["55000", "merge", "retry"],
    ["58P01", "stream", "resync"],
    ["42P01", "merge", "retry"],
    ["42P01", "session", "stop"],
    ["0A000", "session", "stop"],
    ["28P01", "session", "stop"],
    ["28000", "stream", "stop"],
    ["3D000", "session", "stop"],
    ["42501", "merge", "stop"],
    ["42501", "stream", "stop"],
    ["42601", "merge", "stop"],
    ["XX001", "merge", "stop"],
    ["XX000", "merge", "retry"],
    ["ZQ123", "merge", "quarantine"],
    ["ZQ123", "session", "stop"],
  ];
  test.each(table)("%s in %s: %s", (code, operation, reaction) => {
    expect(reactionToSqlState(code, operation)).toBe(reaction);
    expect(sqlStateOf(serverError(code))).toBe(code);
  });

  test("the text of a server's error never matters", () => {
    expect(reactionTo(serverError("28P01", "Connection terminated unexpectedly"), "session")).toBe("stop");
  });

  test("what a function of the user's asks for and does not find is the row's trouble, in a merge", () => {
    const inFunction = Object.assign(serverError("42883"), { internalQuery: "helper(x)" });
    expect(reactionTo(inFunction, "merge")).toBe("quarantine");
    expect(reactionTo(inFunction, "session")).toBe("stop");
    expect(reactionTo(serverError("42883"), "merge")).toBe("stop");
    expect(reactionTo(Object.assign(serverError("42P01"), { internalQuery: "x" }), "merge")).toBe(
      "quarantine",
    );
  });

  test("only a merge quarantines", () => {
    expect(reactionTo(serverError("23505"), "merge")).toBe("quarantine");
    expect(reactionTo(serverError("23505"), "session")).toBe("stop");
  });
});

describe("reactions to other errors", () => {
  test.each(["ECONNRESET", "ECONNREFUSED", "EPIPE", "ETIMEDOUT", "ENOTFOUND", "EAI_AGAIN"])(
    "%s is the network: retry",
    (code) => {
      expect(reactionTo(Object.assign(new Error("x"), { code }), "stream")).toBe("retry");
    },
  );
  test("a certificate needs a person", () => {
    expect(reactionTo(Object.assign(new Error("x"), { code: "CERT_HAS_EXPIRED" }), "stream")).toBe("stop");
  });
  test("several addresses of one host are judged by the first", () => {
    const refused = Object.assign(new Error("x"), { code: "ECONNREFUSED" });
    expect(reactionTo(new AggregateError([refused, refused]), "session")).toBe("retry");
  });
  test("node-postgres's lost connections have no code", () => {
    expect(reactionTo(new Error("Connection terminated unexpectedly"), "merge")).toBe("retry");
    expect(reactionTo(new Error("timeout expired"), "session")).toBe("retry");
    expect(reactionTo(new Error("timeout exceeded when trying to connect"), "session")).toBe("retry");
  });
  test("an error of ours says it itself; a cause is looked at", () => {
    expect(reactionTo(Object.assign(new Error("x"), { reaction: "resync" }), "stream")).toBe("resync");
    expect(reactionTo(new Error("while merging", { cause: serverError("55P03") }), "merge")).toBe("retry");
  });
  test("defects stop", () => {
    expect(reactionTo(new TypeError("x is not a function"), "merge")).toBe("stop");
    expect(reactionTo("thrown text", "merge")).toBe("stop");
    expect(reactionTo(undefined, "merge")).toBe("stop");
  });
});

test("total: any thrown value in any operation has a reaction", () => {
  const code = fc.string({
    unit: fc.constantFrom(..."0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ".split("")),
    minLength: 5,
    maxLength: 5,
  });
  const operation = fc.constantFrom<Operation>("stream", "merge", "session");
  fc.assert(
    fc.property(
      fc.oneof(
        code.map((c) => serverError(c)),
        fc.anything(),
      ),
      operation,
      (error, where) => {
        expect(["retry", "quarantine", "resync", "stop"]).toContain(reactionTo(error, where));
      },
    ),
  );
});
