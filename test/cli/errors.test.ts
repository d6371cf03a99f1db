import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { errorCodes, OperatorError } from "../../src/errors.ts";
import { Problem, type ProblemCode, problemCodes } from "../../src/problems.ts";

interface Manual {
  readonly code: string;
  readonly text: string;
}

/** The comments of the codes in a file of src/, in their order. */
const manuals = async (file: "errors.ts" | "problems.ts"): Promise<Manual[]> => {
  const source = await readFile(new URL(`../../src/${file}`, import.meta.url), "utf8");
  const entry = /^ {2}\/\*\*\n(?<comment>(?: {3}\*.*\n)+?) {3}\*\/\n {2}"?(?<code>[A-Za-z0-9-]+)"?: /gm;
  return [...source.matchAll(entry)].map(({ groups }) => ({
    code: groups?.["code"] ?? "",
    text: paragraphs(groups?.["comment"] ?? ""),
  }));
};

/** A comment's text, each paragraph on one line. */
const paragraphs = (comment: string): string =>
  comment
    .replaceAll(/^ {3}\* ?/gm, "")
    .trim()
    .split(/\n\n+/)
    .map((paragraph) => paragraph.replaceAll("\n", " "))
    .join("\n\n");

const problemSection = ({ code, text }: Manual): string => {
  const { status, title, retryable } = problemCodes[code as ProblemCode];
  const facts = `Status ${status}, ${retryable ? "may be sent again as it is" : "not to be sent again as it is"}.`;
  return `### ${code}\n\n*${title}.* ${text.replace("Remedy: ", "**Remedy:** ")}\n\n${facts}\n`;
};

const page = (all: readonly Manual[], problems: readonly Manual[]): string => {
  const sections = all.map(({ code, text }) => {
    const exit = errorCodes[code as keyof typeof errorCodes];
    return `## ${code}\n\n${text.replace("Remedy: ", "**Remedy:** ")}\n\nThe command ends with ${exit}.\n`;
  });
  return [
    "# Errors",
    "",
    "What the commands tell an operator when they fail. Each error has a code, which stands in brackets after the",
    "message, and as `error.code` in the JSON that `--json` writes to standard error. Made of the comments in",
    "src/errors.ts: change them there, then run `npx vitest run --project main test/cli/errors.test.ts -u`.",
    "",
    "Exit codes of all commands: 0 ok, 1 error, 2 called wrongly, 3 degraded, 4 the regions differ.",
    "",
    sections.join("\n"),
    "## Problems of the HTTP API",
    "",
    "An answer with a status of 400 or more has a body of type `application/problem+json`, whose `code` is one of these.",
    "`detail` says more, `requestId` is in the agent's log, `sqlState` is what PostgreSQL said. `retryable` true: nothing of",
    "the request was done, and it may succeed later; with 429 and 503, `Retry-After` says when. Made of the comments in",
    "src/problems.ts.",
    "",
    problems.map(problemSection).join("\n"),
  ].join("\n");
};

test("every code has a manual with a remedy", async () => {
  const [errors, problems] = await Promise.all([manuals("errors.ts"), manuals("problems.ts")]);
  expect(errors.map(({ code }) => code)).toEqual(Object.keys(errorCodes));
  expect(problems.map(({ code }) => code)).toEqual(Object.keys(problemCodes));
  for (const { code, text } of [...errors, ...problems]) {
    expect(text, code).toMatch(/^[A-Z`][^]{30,}\n\nRemedy: [^]{10,}$/);
  }
});

test("docs/errors.md says what the comments say", async () => {
  const [errors, problems] = await Promise.all([manuals("errors.ts"), manuals("problems.ts")]);
  await expect(page(errors, problems)).toMatchFileSnapshot("../../docs/errors.md");
});

test("a problem keeps the facts that are known first", () => {
  const cause = new Error("why");
  const problem = new Problem("contention", "x", { region: "a", cause }).with({ region: "b", operation: 1 });
  expect(problem).toMatchObject({
    status: 503,
    retryable: true,
    facts: { region: "a", operation: 1 },
    cause,
  });
  expect(new Problem("contention", "x", { retryable: false }).retryable).toBe(false);
});

test("an error knows its exit code, and keeps its cause", () => {
  const cause = new Error("why");
  const error = new OperatorError("CG-USAGE", "wrong", { remedy: "right", cause });
  expect([error.exitCode, error.cause, error.name]).toEqual([2, cause, "OperatorError"]);
  expect("cause" in new OperatorError("CG-INTERNAL", "x", { remedy: "y" })).toBe(false);
});
