import { execFile, execFileSync } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import { registerHaproxyConfig } from "../../src/cli/haproxy-config.ts";
import { folderWith, run, type Ran } from "./harness.ts";

const yaml = `
cluster: weightbook
regions:
  - { name: moldova, id: 1, latitude: 47, longitude: 29, postgres: "postgres://app:geheim@md.example.com/weightbook", api: "http://md.example.com:7400", entrance: "127.0.0.1:6432" }
  - { name: argentina, id: 2, latitude: -34, longitude: -58, postgres: "postgres://app:geheim@[fd00::2]:5433/weightbook", api: "https://localhost", entrance: "[::1]:6432" }
  - { name: new-zealand, id: 3, latitude: -41, longitude: 174, postgres: "postgres://app:geheim@localhost/weightbook?host=/run/nz", api: "http://[fd00::3]:7400" }
writer: { probeMs: 250 }
`;

const configOf = async (args: readonly string[], text = yaml): Promise<Ran> => {
  await using folder = await folderWith({ "coregent.yaml": text });
  return run(["haproxy-config", ...args], { cwd: folder.path, commands: [registerHaproxyConfig] });
};

const hasHaproxy = ((): boolean => {
  try {
    execFileSync("haproxy", ["-v"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
})();

describe("haproxy-config", () => {
  test("leads each region's clients to its own master, and the others back it up by distance; no password is in it", async () => {
    const { code, stdout } = await configOf([]);
    expect(code).toBe(0);
    expect(stdout).not.toContain("geheim");
    const servers = stdout.split("\n").filter((line) => /^listen|^ {4}(bind|server) /.test(line));
    const md = "server moldova md.example.com:5432 check port 7400";
    const ar =
      "server argentina [fd00::2]:5433 check addr localhost port 443" +
      " check-ssl check-sni localhost verify required ca-file @system-ca";
    const nz = "server new-zealand localhost:5432 check addr [fd00::3] port 7400";
    expect(servers.map((line) => line.trim())).toEqual([
      "listen postgres-moldova",
      "bind 127.0.0.1:6432",
      md,
      `${ar} backup`,
      `${nz} backup`,
      "listen postgres-argentina",
      "bind [::1]:6432",
      ar,
      `${nz} backup`,
      `${md} backup`,
      "listen postgres-new-zealand",
      "bind 127.0.0.1:6434",
      nz,
      `${ar} backup`,
      `${md} backup`,
    ]);
    expect(stdout).toContain("inter 250ms fall 3 rise 3");
  });

  test("for one region, and refused where one HAProxy cannot do it", async () => {
    const { stdout } = await configOf(["--region", "argentina"]);
    expect(stdout.match(/^listen .*/gm)).toEqual(["listen postgres-argentina"]);
    const shared = yaml.replace("127.0.0.1:6432", "0.0.0.0:6432").replace("[::1]:6432", "0.0.0.0:6432");
    const refused = await configOf([], shared);
    expect([refused.code, refused.stdout]).toEqual([2, ""]);
    expect(refused.stderr).toContain("--region NAME");
    expect((await configOf(["-r", "argentina"], shared)).code).toBe(0);
  });

  test.skipIf(!hasHaproxy)("is taken by HAProxy itself", async () => {
    const { stdout } = await configOf([]);
    await using folder = await folderWith({ "haproxy.cfg": stdout });
    const checked = await promisify(execFile)("haproxy", ["-c", "-f", join(folder.path, "haproxy.cfg")]);
    expect(checked.stdout + checked.stderr).toContain("Configuration file is valid");
  });
});
