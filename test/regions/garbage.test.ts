import * as fc from "fast-check";
import { test } from "vitest";
import { stringify } from "yaml";
import { topologyOf } from "../../src/config.ts";
import { OperatorError } from "../../src/errors.ts";
import { exampleEnv, exampleYaml } from "./example.ts";

/** Holds for every text: it is a topology, or an error that names places inside the text, and no secret is told. */
const holds = (text: string): void => {
  try {
    topologyOf(text, { file: "f.yaml", env: exampleEnv });
  } catch (error) {
    if (!(error instanceof OperatorError) || error.code !== "CG-CONFIG-INVALID") {
      throw error;
    }
    const lines = text.split("\n");
    if (error.problems.length === 0 || error.remedy === "") {
      throw new Error("no problem or no remedy is given", { cause: error });
    }
    for (const { file, line, column, message } of error.problems) {
      const inText = line >= 1 && column >= 1 && column <= (lines[line - 1]?.length ?? -1) + 1;
      if (file !== "f.yaml" || !inText || message === "") {
        throw new Error(`no place in the text: ${line}:${column} of ${JSON.stringify(text)}: ${message}`, {
          cause: error,
        });
      }
      if (/canary|tango/.test(message)) {
        throw new Error(`a password is told: ${message}`, { cause: error });
      }
    }
  }
};

const runs = { numRuns: 1_500 };

test("any text", () => {
  fc.assert(fc.property(fc.string({ unit: "binary", maxLength: 200 }), holds), runs);
});

test("any text of YAML's own characters", () => {
  const piece = fc.constantFrom(
    ..."\n \t:-?,[]{}#&*!|>'\"%@`$\\~0a".split(""),
    "\n  ",
    "- ",
    ": ",
    "---\n",
    "...\n",
    "<<: ",
    "&a ",
    "*a",
    "!!binary ",
    "%YAML 1.1\n",
    "${",
    "$${X}",
    "${MOLDOVA_PASSWORD}",
    "cluster: ",
    "regions:\n",
    "tables: ",
    "\r\n",
    "\u0000",
    "\uFEFF",
    "\u2028",
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 40 }), (pieces) => {
      holds(pieces.join(""));
    }),
    runs,
  );
});

test("a good configuration with pieces cut out, doubled or put in", () => {
  const edit = fc.record({
    at: fc.nat(exampleYaml.length),
    remove: fc.nat(30),
    insert: fc.oneof(
      fc.string({ maxLength: 8 }),
      fc.constantFrom("\n", "  ", "- ", ": ", "*x", "&x ", "${MOLDOVA_PASSWORD}", "null", "[", "}", "'", '"'),
      fc
        .record({ from: fc.nat(exampleYaml.length), length: fc.nat(60) })
        .map(({ from, length }) => exampleYaml.slice(from, from + length)),
    ),
  });
  fc.assert(
    fc.property(fc.array(edit, { minLength: 1, maxLength: 4 }), (edits) => {
      let text = exampleYaml;
      for (const { at, remove, insert } of edits) {
        text = text.slice(0, at) + insert + text.slice(at + remove);
      }
      holds(text);
    }),
    runs,
  );
});

test("any structure with the keys of a configuration and values of every kind", () => {
  const value = fc.letrec((tie) => ({
    node: fc.oneof(
      { maxDepth: 4 },
      fc.constantFrom(null, true, 0, -1, 1, 1e300, "", "public", "${X}", "${MOLDOVA_PASSWORD}", "a@b"),
      fc.constantFrom("postgres://a:canary@h/d", "http://h:1", "public.t", "latest"),
      fc.array(tie("node"), { maxLength: 4 }),
      fc.dictionary(
        fc.constantFrom(
          "cluster",
          "regions",
          "schemas",
          "tables",
          "name",
          "id",
          "latitude",
          "longitude",
          "postgres",
          "api",
          "owner",
          "failover",
          "conflict",
          "route",
          "entrance",
          "writer",
          "probeMs",
          "clients",
          "countryHeader",
          "places",
          "code",
          "outages",
          "allowed",
          "__proto__",
          "constructor",
        ),
        tie("node"),
        { maxKeys: 8 },
      ),
    ),
  })).node;
  fc.assert(
    fc.property(value, (content) => {
      holds(stringify(content));
    }),
    runs,
  );
});

test("texts that are too much", () => {
  for (const text of ["[".repeat(100_000), "a: ".repeat(50_000), "- ".repeat(100_000), "x".repeat(300_000)]) {
    holds(text);
  }
  const bomb = Array.from({ length: 30 }, (_, i) => `a${i}: &a${i} [*a${i - 1}, *a${i - 1}]`).slice(1);
  holds(["a0: &a0 [x]", ...bomb, "cluster: *a29", "regions: *a29"].join("\n"));
  holds("cluster: &c [*c]\nregions: &r [*r, {name: *r}]\n");
});
