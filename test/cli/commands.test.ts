import { describe, expect, test } from "vitest";
import type { CliWorld } from "../../src/cli/context.ts";
import type { Finding, InitReport } from "../../src/cli/services.ts";
import { exampleEnv, exampleYaml } from "../regions/example.ts";
import { folderWith, run, type Ran } from "./harness.ts";

const finding = (severity: Finding["severity"], region = "moldova"): Finding => ({
  region,
  severity,
  code: `${severity}-code`,
  object: "wal_level",
  message: "is replica, must be logical",
  remedy: "ALTER SYSTEM SET wal_level = logical;\n-- then restart the server",
});

/** Runs in a folder with the example's configuration, and with these services. */
const runWith = async (
  argv: readonly string[],
  services: Partial<CliWorld["services"]>,
  world: Partial<CliWorld> = {},
): Promise<Ran> => {
  await using folder = await folderWith({ "coregent.yaml": exampleYaml });
  const all = { initCluster: fail, uninstallCluster: fail, checkCluster: fail, ...services };
  return await run(argv, { cwd: folder.path, env: exampleEnv, services: all, ...world });
};

const fail = (): never => {
  throw new Error("must not be called");
};

describe("config", () => {
  test("prints what was read, for people", async () => {
    const { code, stdout, stderr } = await runWith(["config"], {});
    expect([code, stderr]).toEqual([0, ""]);
    expect(stdout).toBe(`cluster weightbook
schemas public, Training

ID  REGION     LATITUDE  LONGITUDE  POSTGRES                                              API                    ENTRANCE
 1  moldova       47.01      28.86  postgres://app:***@moldova.example:5432/weightbook    http://127.0.0.1:8080  -
 2  argentina    -34.60     -58.38  postgres://app:***@argentina.example:5432/weightbook  http://127.0.0.1:8081  -

TABLE                 OWNER        FAILOVER     CONFLICT  ROUTE
public.workouts       home_region  provisional  latest    owner
Training.Set.entries  -            -            latest    -
`);
  });

  test("prints what was read, for programs, without passwords", async () => {
    const { code, stdout } = await runWith(["config", "--json"], {});
    expect(code).toBe(0);
    expect(stdout).not.toMatch(/canary|tango/);
    expect(JSON.parse(stdout)).toMatchObject({
      cluster: "weightbook",
      regions: [{ id: 1, postgres: "postgres://app:***@moldova.example:5432/weightbook" }, { id: 2 }],
    });
  });
});

describe("check", () => {
  test.each([
    ["nothing", [], 0, "ok"],
    ["what is well", [finding("ok")], 0, "ok"],
    ["a warning", [finding("ok"), finding("warning")], 0, "warning"],
    ["something critical", [finding("warning"), finding("critical", "argentina")], 3, "critical"],
  ] as const)("with %s found", async (_, findings, code, verdict) => {
    const services = { checkCluster: () => Promise.resolve(findings) };
    const json = await runWith(["check", "--json"], services);
    expect([json.code, json.stderr]).toEqual([code, ""]);
    expect(JSON.parse(json.stdout)).toEqual({ verdict, findings });
    expect((await runWith(["check"], services)).code).toBe(code);
  });

  test("shows the worst first, with its remedy, by region", async () => {
    const findings = [finding("ok"), finding("critical"), finding("warning", "argentina")];
    const { stdout } = await runWith(["check"], { checkCluster: () => Promise.resolve(findings) });
    expect(stdout).toBe(`not ready (1 critical, 1 warning, 1 ok)

moldova
  critical  wal_level: is replica, must be logical [critical-code]
            ALTER SYSTEM SET wal_level = logical;
            -- then restart the server
  ok        wal_level: is replica, must be logical

argentina
  warning   wal_level: is replica, must be logical [warning-code]
            ALTER SYSTEM SET wal_level = logical;
            -- then restart the server
`);
  });
});

describe("init", () => {
  const regions = [
    { region: "moldova", changes: ["schema coregent made", "public.workouts taken up"] },
    { region: "argentina", changes: [] },
  ];
  const reporting = (report: InitReport): Partial<CliWorld["services"]> => ({
    initCluster: () => Promise.resolve(report),
  });

  test("tells what was done", async () => {
    const { code, stdout, stderr } = await runWith(
      ["init"],
      reporting({ regions, findings: [finding("ok")] }),
    );
    expect([code, stderr]).toEqual([0, ""]);
    expect(stdout).toBe(
      "moldova\n  schema coregent made\n  public.workouts taken up\n\nargentina\n  nothing to do\n",
    );
  });

  test("ends with 1 when something critical is in the way, and tells what", async () => {
    const report = { regions: [], findings: [finding("critical")] };
    const { code, stdout, stderr } = await runWith(["init"], reporting(report));
    expect([code, stdout]).toEqual([1, "nothing was changed\n"]);
    expect(stderr).toContain("critical  wal_level");
    const json = await runWith(["init", "--json"], reporting(report));
    expect([json.code, json.stderr]).toEqual([1, ""]);
    expect(JSON.parse(json.stdout)).toEqual({ refused: true, ...report });
  });

  test("shows warnings beside what was done", async () => {
    const { code, stderr } = await runWith(["init"], reporting({ regions, findings: [finding("warning")] }));
    expect(code).toBe(0);
    expect(stderr).toContain("warning   wal_level");
  });
});

describe("uninstall", () => {
  const report = { regions: [{ region: "moldova", changes: ["schema coregent dropped"] }] };
  const services = { uninstallCluster: () => Promise.resolve(report) };
  const answer = (yes: boolean): Partial<CliWorld> => ({ confirm: () => Promise.resolve(yes) });

  test("asks where somebody can answer", async () => {
    const refused = await runWith(["uninstall"], {}, answer(false));
    expect([refused.code, refused.stdout]).toEqual([1, ""]);
    expect(refused.stderr).toContain("nothing was removed");
    const accepted = await runWith(["uninstall"], services, answer(true));
    expect([accepted.code, accepted.stdout]).toEqual([0, "moldova\n  schema coregent dropped\n"]);
  });

  test("does not ask with --yes, nor where nobody is", async () => {
    expect((await runWith(["uninstall", "--yes"], services, answer(false))).code).toBe(0);
    expect((await runWith(["uninstall"], services)).code).toBe(0);
  });
});
