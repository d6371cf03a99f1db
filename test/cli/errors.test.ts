import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { errorCodes, OperatorError } from "../../src/errors.ts";

interface Manual {
  readonly code: string;
  readonly text: string;
}

/** The comments of the codes in src/errors.ts, in their order. */
const manuals = async (): Promise<Manual[]> => {
  const source = await readFile(new URL("../../src/errors.ts", import.meta.url), "utf8");
  const entry = /^ {2}\/\*\*\n(?<comment>(?: {3}\*.*\n)+?) {3}\*\/\n {2}"(?<code>CG-[A-Z0-9-]+)":/gm;
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

const page = (all: readonly Manual[]): string => {
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
  ].join("\n");
};

test("every code has a manual with a remedy", async () => {
  const all = await manuals();
  expect(all.map(({ code }) => code)).toEqual(Object.keys(errorCodes));
  for (const { code, text } of all) {
    expect(text, code).toMatch(/^[A-Z`][^]{30,}\n\nRemedy: [^]{20,}$/);
  }
});

test("docs/errors.md says what the comments say", async () => {
  await expect(page(await manuals())).toMatchFileSnapshot("../../docs/errors.md");
});

test("an error knows its exit code, and keeps its cause", () => {
  const cause = new Error("why");
  const error = new OperatorError("CG-USAGE", "wrong", { remedy: "right", cause });
  expect([error.exitCode, error.cause, error.name]).toEqual([2, cause, "OperatorError"]);
  expect("cause" in new OperatorError("CG-INTERNAL", "x", { remedy: "y" })).toBe(false);
});
