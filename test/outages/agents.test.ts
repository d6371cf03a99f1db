import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { registerOutage } from "../../src/cli/outage.ts";
import { registerVerify } from "../../src/cli/verify.ts";
import { startCluster, type TestCluster } from "../../src/testing/index.ts";
import { eventually } from "../support/eventually.ts";
import { run, type Ran } from "../cli/harness.ts";

/** Outages as administrators begin them, at agents that are processes of their own; the tests go on from one another. */

const token = "only-for-this-test";
const schema = "CREATE TABLE note (id text PRIMARY KEY, body text, home_region text NOT NULL)";

let cluster: TestCluster;
beforeAll(async () => {
  cluster = await startCluster({
    regions: 3,
    schema,
    tables: [{ name: "public.note", owner: "home_region" }],
    writer: { probeMs: 100, probeTimeoutMs: 500, failuresToDown: 2, successesToUp: 2, calmMs: 200 },
    outages: true,
    endpoint: {
      anonymous: "writer",
      tokens: [{ name: "ops", role: "admin", sha256: createHash("sha256").update(token).digest("hex") }],
    },
  });
}, 120_000);
afterAll(() => cluster?.stop());

const coregent = (argv: readonly string[], env = { COREGENT_TOKEN: token }): Promise<Ran> =>
  run([...argv, "--config", cluster.configFile], { commands: [registerOutage, registerVerify], env });

const outage = async (...argv: readonly string[]): Promise<Ran> => {
  const ran = await coregent(["outage", ...argv]);
  expect(ran, ran.stderr).toMatchObject({ code: 0 });
  return ran;
};

/** A write through an endpoint. @returns the status, and who wrote */
const put = async (
  endpoint: string,
  id: string,
  row: Readonly<Record<string, string>>,
): Promise<{ status: number; region: string | null; takeover: string | null }> => {
  const response = await fetch(`${cluster.region(endpoint).api}/v1/tables/note/rows/${id}`, {
    method: "PUT",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(row),
  });
  await response.text();
  const { status, headers } = response;
  return { status, region: headers.get("coregent-region"), takeover: headers.get("coregent-takeover") };
};

const bodies = (region: string, id: string): Promise<Record<string, unknown>[]> =>
  cluster.region(region).sql("SELECT body FROM note WHERE id = $1", [id]);

const seen = (region: string, id: string, body: string): Promise<unknown> =>
  eventually(async () => expect(await bodies(region, id)).toEqual([{ body }]), { timeoutMs: 20_000 });

const links = async (region: string): Promise<Record<string, string>> => {
  const response = await fetch(`${cluster.region(region).api}/v1/status`);
  const report = (await response.json()) as { links: { peer: string; state: string }[] };
  return Object.fromEntries(report.links.map(({ peer, state }) => [peer, state]));
};

const equal = async (): Promise<void> => {
  await cluster.converged({ timeoutMs: 30_000 });
  const verified = await coregent(["verify"]);
  expect(verified, verified.stdout).toMatchObject({ code: 0 });
};

test("without the token nobody begins one", async () => {
  const { code, stdout } = await coregent(["outage", "start", "region", "c"], { COREGENT_TOKEN: "" });
  expect(code).toBe(1);
  expect(stdout).toMatch(/^o\w+: no agent takes part\n/);
  expect(stdout).toContain("c: its agent does not take part: ");
  for (const asked of [["list"], ["heal", "--all"]]) {
    const untold = await coregent(["outage", ...asked], { COREGENT_TOKEN: "" });
    expect(untold.code).toBe(3);
    expect(untold.stdout).toMatch(/^(\w: its agent does not answer: .*\n){3}$/);
  }
  expect((await outage("list")).stdout).toBe("no outage is simulated\n");
});

test("a region that is out: writes go on elsewhere, its rows are taken over, and it is back by itself", async () => {
  expect(await put("a", "r", { body: "before", home_region: "c" })).toMatchObject({
    status: 201,
    region: "c",
  });
  await cluster.converged();
  await outage("start", "region", "c", "--for", "3s");
  // Who writes straight to the master notices nothing; nobody else sees it, and who takes over outranks it.
  await cluster.region("c").sql`UPDATE note SET body = 'behind its back' WHERE id = 'r'`;
  await eventually(
    async () =>
      expect(await put("a", "r", { body: "taken over", home_region: "c" })).toEqual({
        status: 200,
        region: expect.stringMatching(/^[ab]$/),
        takeover: "true",
      }),
    { timeoutMs: 5_000 },
  );
  // The endpoint of the region that is out cannot reach any master.
  expect((await put("c", "s", { body: "nowhere", home_region: "c" })).status).toBe(503);
  await eventually(async () => expect((await outage("list")).stdout).toBe("no outage is simulated\n"), {
    timeoutMs: 10_000,
  });
  await seen("c", "r", "taken over");
  await eventually(
    async () =>
      expect(await put("a", "r", { body: "after", home_region: "c" })).toEqual({
        status: 200,
        region: "c",
        takeover: "false",
      }),
    { timeoutMs: 20_000 },
  );
  await equal();
});

test("what was begun is on record in every region, also in the one that was cut off from its database", async () => {
  const { stdout } = await outage("start", "region", "c");
  const id = stdout.slice(0, stdout.indexOf(":"));
  await outage("heal", id);
  for (const region of cluster.regions) {
    await eventually(async () =>
      expect(
        await region.sql(
          `SELECT action, by, split_part(detail, ';', 1) AS detail, host(address) AS address
             FROM coregent.audit WHERE detail LIKE $1 ORDER BY id`,
          [`outage ${id} %`],
        ),
      ).toEqual([
        {
          action: "POST /v1/admin/outages",
          by: "ops",
          detail: `outage ${id} begun: region c, until it is healed`,
          address: "127.0.0.1",
        },
        {
          action: `DELETE /v1/admin/outages/${id}`,
          by: "ops",
          detail: `outage ${id} healed`,
          address: "127.0.0.1",
        },
      ]),
    );
    const log = await readFile(region.agent.logFile, "utf8");
    expect(log).not.toContain(token);
    expect(log.match(new RegExp(`outage ${id} healed`, "g"))).toHaveLength(1);
  }
});

test("a link that is cut, and one that is cut one way only", async () => {
  const { stdout } = await outage("start", "link", "a", "b");
  await eventually(async () => expect((await links("a"))["b"]).not.toBe("streaming"));
  await cluster.region("a").sql`INSERT INTO note VALUES ('l', 'from a', 'a')`;
  await seen("c", "l", "from a");
  expect(await bodies("b", "l")).toEqual([]);
  await outage("heal", stdout.slice(0, stdout.indexOf(":")));
  await seen("b", "l", "from a");

  await outage("start", "link", "a", "b", "--one-way");
  await cluster.region("a").sql`INSERT INTO note VALUES ('o', 'from a', 'a')`;
  await cluster.region("b").sql`INSERT INTO note VALUES ('p', 'from b', 'b')`;
  await seen("a", "p", "from b");
  await seen("c", "o", "from a");
  expect(await bodies("b", "o")).toEqual([]);
  await outage("heal", "--all");
  await seen("b", "o", "from a");
  await equal();
});

test("a line that is slow brings everything, later", async () => {
  await outage("start", "latency", "a", "b", "400ms", "--jitter", "20ms", "--for", "20s");
  await eventually(async () => expect(await links("b")).toEqual({ a: "streaming", c: "streaming" }), {
    timeoutMs: 15_000,
  });
  await cluster.region("a").sql`INSERT INTO note VALUES ('slow', 'from a', 'a')`;
  const committed = performance.now();
  await seen("b", "slow", "from a");
  // A lower bound only: half of the round trip is on the way.
  expect(performance.now() - committed).toBeGreaterThan(180);
  await outage("heal", "--all");
  await equal();
});
