import { describe, expect, test } from "vitest";
import type { RegisterCommand } from "../../src/cli/context.ts";
import { OutputClosed } from "../../src/cli/output.ts";
import { OperatorError } from "../../src/errors.ts";
import { exampleEnv, exampleYaml } from "../regions/example.ts";
import { folderWith, run } from "./harness.ts";

/** A command that fails with the given error. */
const failing =
  (error: unknown): RegisterCommand =>
  (program) => {
    program.command("fail").action(() => {
      throw error;
    });
  };

describe("help", () => {
  test("lists the commands in groups, with examples, on standard output", async () => {
    const { code, stdout, stderr } = await run(["--help"]);
    expect([code, stderr]).toEqual([0, ""]);
    expect(stdout).toMatch(/Usage: coregent COMMAND/);
    expect(stdout).toMatch(/Set up a cluster:\n {2}check .*\n/);
    expect(stdout).toMatch(/Examples:\n {2}coregent demo/);
    expect(stdout).toContain("Exit codes: 0 ok, 1 error, 2 called wrongly, 3 degraded, 4 regions differ.");
    expect(Math.max(...stdout.split("\n").map((line) => line.length))).toBeLessThanOrEqual(100);
  });

  test("of a command shows the options that all commands have", async () => {
    for (const argv of [
      ["check", "--help"],
      ["help", "check"],
    ]) {
      const { code, stdout } = await run(argv);
      expect(code).toBe(0);
      expect(stdout).toMatch(/coregent check \[options\][^]*Global Options:[^]*--json/);
    }
  });

  test("goes to standard error when no command was given, which is a usage error", async () => {
    const { code, stdout, stderr } = await run([]);
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toContain("Usage: coregent");
  });
});

describe("called wrongly", () => {
  test.each([
    [["chek"], "unknown command 'chek'", "Did you mean check?"],
    [["check", "--jsn"], "unknown option '--jsn'", "Did you mean --json?"],
    [["check", "extra"], "too many arguments", "coregent --help"],
    [["--config"], "argument missing", "coregent --help"],
  ])("%j", async (argv, message, remedy) => {
    const { code, stdout, stderr } = await run(argv);
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toContain(message);
    expect(stderr).toContain(remedy);
    expect(stderr).toContain("[CG-USAGE]");
  });
});

describe("errors", () => {
  test("of the configuration: each place on a line, as editors understand it", async () => {
    await using folder = await folderWith({ "coregent.yaml": exampleYaml.replace("id: 2", "id: 1") });
    const { code, stdout, stderr } = await run(["config"], { cwd: folder.path, env: {} });
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr.split("\n")).toEqual([
      "error coregent.yaml has 2 problems [CG-CONFIG-INVALID]",
      "  coregent.yaml:7:30: regions[0].postgres needs the environment variable MOLDOVA_PASSWORD, which is not set",
      "  coregent.yaml:10:9: regions[1].id repeats the id of regions[0]: each region needs its own",
      "remedy Correct the file at the places named. `coregent config` shows what is read from it.",
      "",
    ]);
  });

  test("with --json: one line of JSON on standard error", async () => {
    await using folder = await folderWith({ "coregent.yaml": exampleYaml });
    const { code, stdout, stderr } = await run(["config", "--json"], { cwd: folder.path, env: {} });
    expect([code, stdout, stderr.match(/\n/g)?.length]).toEqual([1, "", 1]);
    expect(JSON.parse(stderr)).toEqual({
      error: {
        code: "CG-CONFIG-INVALID",
        message: "coregent.yaml has a problem",
        remedy: expect.stringContaining("Correct the file"),
        problems: [
          {
            file: "coregent.yaml",
            line: 7,
            column: 30,
            message: "regions[0].postgres needs the environment variable MOLDOVA_PASSWORD, which is not set",
          },
        ],
      },
    });
  });

  test("of usage with --json, too", async () => {
    const { code, stderr } = await run(["chek", "--json"]);
    expect(code).toBe(2);
    expect(JSON.parse(stderr)).toMatchObject({ error: { code: "CG-USAGE" } });
  });

  test.each([
    [
      "refused by the network",
      Object.assign(new Error("connect ECONNREFUSED"), { code: "ECONNREFUSED" }),
      "CG-UNREACHABLE",
    ],
    [
      "refused by every address",
      new AggregateError([
        Object.assign(new Error("connect ECONNREFUSED ::1:5432"), { code: "ECONNREFUSED" }),
      ]),
      "CG-UNREACHABLE",
    ],
    [
      "refused by the server that starts",
      Object.assign(new Error("starting up"), { code: "57P03" }),
      "CG-UNREACHABLE",
    ],
    [
      "a wrong password",
      Object.assign(new Error("password authentication failed"), { code: "28P01" }),
      "CG-LOGIN-REFUSED",
    ],
    [
      "a database that is not there",
      Object.assign(new Error("no database"), { code: "3D000" }),
      "CG-LOGIN-REFUSED",
    ],
    ["a defect", new TypeError("x is undefined"), "CG-INTERNAL"],
    ["no error at all", undefined, "CG-INTERNAL"],
    ["our own", new OperatorError("CG-REGION-UNKNOWN", "m", { remedy: "r" }), "CG-REGION-UNKNOWN"],
  ])("%s has a code and a remedy", async (_, error, errorCode) => {
    const { code, stdout, stderr } = await run(["fail"], { commands: [failing(error)] });
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toMatch(new RegExp(`^error .+ \\[${errorCode}\\]\nremedy .+\n$`));
  });

  test("tell where they happened only with --debug, and never an error's properties", async () => {
    const error = Object.assign(new Error("Invalid URL"), { input: "postgres://a:canary@h/d" });
    const plain = await run(["fail"], { commands: [failing(error)] });
    const debug = await run(["fail", "--debug"], { commands: [failing(error)] });
    const json = await run(["fail", "--debug", "--json"], { commands: [failing(error)] });
    expect(plain.stderr).not.toContain("program.test.ts");
    expect(debug.stderr).toContain("program.test.ts");
    expect(JSON.parse(json.stderr).error.stack).toContain("program.test.ts");
    expect(debug.stderr + json.stderr).not.toContain("canary");
  });

  test("cannot command the terminal", async () => {
    const error = new OperatorError("CG-INTERNAL", "table \u001b[2Jx\u0007", { remedy: "\u009b1mr\u202e" });
    const { stderr } = await run(["fail"], { commands: [failing(error)] });
    expect(stderr).toBe("error table \\x1b[2Jx\\x07 [CG-INTERNAL]\nremedy \\x9b1mr\\u202e\n");
  });
});

describe("colours", () => {
  const escape = "\u001b[";

  test.each([
    ["off a terminal", { terminal: false, env: {} }, false],
    ["on a terminal", { terminal: true, env: {} }, true],
    ["with NO_COLOR", { terminal: true, env: { NO_COLOR: "1" } }, false],
    ["with an empty NO_COLOR", { terminal: true, env: { NO_COLOR: "" } }, true],
    ["on a dumb terminal", { terminal: true, env: { TERM: "dumb" } }, false],
    ["with FORCE_COLOR", { terminal: false, env: { FORCE_COLOR: "1" } }, true],
    ["with NO_COLOR and FORCE_COLOR", { terminal: true, env: { FORCE_COLOR: "1", NO_COLOR: "1" } }, false],
  ])("%s", async (_, world, colored) => {
    await using folder = await folderWith({ "coregent.yaml": exampleYaml });
    const env = { ...exampleEnv, ...world.env };
    const good = await run(["config"], { ...world, env, cwd: folder.path });
    const bad = await run(["chek"], world);
    const help = await run(["--help"], world);
    expect(good.code).toBe(0);
    expect([good.stdout, bad.stderr, help.stdout].map((text) => text.includes(escape))).toEqual([
      colored,
      colored,
      colored,
    ]);
  });
});

test("a reader that has gone is no failure, and nothing is said", async () => {
  const closed = await run(["fail"], { commands: [failing(new OutputClosed())] });
  expect(closed).toEqual({ code: 0, stdout: "", stderr: "" });
});

test("the version is the package's", async () => {
  const { default: manifest } = await import("../../package.json", { with: { type: "json" } });
  const { code, stdout } = await run(["--version"]);
  expect([code, stdout]).toEqual([0, `${manifest.version}\n`]);
});
