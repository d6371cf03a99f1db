import type { AddressInfo } from "node:net";
import { Pool } from "pg";
import { Registry } from "prom-client";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parseLagBound } from "../../src/http/lag-bound.ts";
import { registerPatroni, type PatroniParts } from "../../src/http/patroni.ts";
import { createAgentServer } from "../../src/http/server.ts";
import { readServerFacts } from "../../src/postgres/server-facts.ts";
import type { AgentStatus } from "../../src/replication/status.ts";
import { serverUrl } from "../support/database.ts";
import { agentStatus, nowMs } from "./agent-fixture.ts";

let pool: Pool;
beforeAll(async () => {
  pool = new Pool({ connectionString: await serverUrl(), max: 1 });
});
afterAll(() => pool.end());

interface Asked {
  readonly status: number;
  readonly body: Record<string, unknown>;
}

/** A server with these health checks, and what it answers. */
const serving = async (
  status: AgentStatus,
  changes: Partial<PatroniParts> = {},
): Promise<AsyncDisposable & { url: string; get: (path: string) => Promise<Asked> }> => {
  const parts: PatroniParts = {
    status,
    now: () => nowMs,
    facts: () => readServerFacts(pool),
    drained: () => false,
    fenced: () => null,
    ...changes,
  };
  const server = createAgentServer({
    status,
    registry: new Registry(),
    now: () => nowMs,
    pingDatabase: () => Promise.resolve(),
    register: [(app) => registerPatroni(app, parts)],
  });
  await server.listen({ host: "127.0.0.1", port: 0 });
  const url = `http://127.0.0.1:${(server.server.address() as AddressInfo).port}`;
  return {
    url,
    get: async (path) => {
      const response = await fetch(url + path);
      return { status: response.status, body: (await response.json()) as Record<string, unknown> };
    },
    [Symbol.asyncDispose]: () => server.close(),
  };
};

const paths = ["/primary", "/read-write", "/replica", "/read-only", "/health"];
/** The paths that answer 200. */
const good = async (get: (path: string) => Promise<Asked>): Promise<string[]> => {
  const answers = await Promise.all(paths.map(async (path) => ({ path, status: (await get(path)).status })));
  for (const { status } of answers) expect([200, 503]).toContain(status);
  return answers.filter(({ status }) => status === 200).map(({ path }) => path);
};

describe("a region", () => {
  test("that is well is primary and replica, and says so as Patroni does", async () => {
    await using server = await serving(agentStatus());
    expect(await good(server.get)).toEqual(paths);
    expect((await server.get("/primary")).body).toEqual({
      state: "running",
      role: "primary",
      postmaster_start_time: expect.stringMatching(/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d.*\+00$/) as string,
      server_version: expect.any(Number) as number,
      xlog: { location: expect.any(Number) as number },
      timeline: 1,
      database_system_identifier: expect.stringMatching(/^\d+$/) as string,
      patroni: { version: "0.1.0", scope: "weightbook", name: "moldova" },
      coregent: { lag_seconds: 0, lag_bytes: 0, drained: false, fenced: null },
    });
  });

  test.each(["HEAD", "OPTIONS"])("answers %s with the status alone", async (method) => {
    const status = agentStatus();
    await using server = await serving(status);
    for (const [role, expected] of [
      ["active", 200],
      ["stopping", 503],
    ] as const) {
      status.role = role;
      const response = await fetch(`${server.url}/primary`, { method });
      expect([response.status, await response.text()]).toEqual([expected, ""]);
    }
  });

  test("whose master is gone answers no check", async () => {
    await using server = await serving(agentStatus(), {
      facts: () => Promise.reject(new Error("ECONNREFUSED")),
    });
    expect(await good(server.get)).toEqual([]);
    expect((await server.get("/health")).body).toMatchObject({ state: "unknown" });
  });

  test("whose master hangs answers in time, and asks it once for many", async () => {
    let asked = 0;
    const facts = (): Promise<never> => {
      asked += 1;
      return new Promise(() => undefined);
    };
    await using server = await serving(agentStatus(), { facts, timeoutMs: 50 });
    expect(await good(server.get)).toEqual([]);
    expect(asked).toBe(1);
  });

  test.each([
    ["is drained", { drained: () => true }, ["/health"]],
    ["has an odd clock", { fenced: () => "2 min ahead" }, ["/replica", "/read-only", "/health"]],
  ])("that %s is left by what it cannot serve", async (_, changes, expected) => {
    await using server = await serving(agentStatus(), changes);
    expect(await good(server.get)).toEqual(expected);
  });

  test("whose master is a standby, or read-only, takes no writes", async () => {
    const facts = await readServerFacts(pool);
    await using standby = await serving(agentStatus(), {
      facts: () => Promise.resolve({ ...facts, inRecovery: true, timeline: null }),
    });
    expect(await good(standby.get)).toEqual(["/replica", "/read-only", "/health"]);
    expect((await standby.get("/health")).body).toMatchObject({ role: "replica" });
    const readOnly = new Pool({
      connectionString: await serverUrl(),
      options: "-c default_transaction_read_only=on",
    });
    await using server = await serving(agentStatus(), { facts: () => readServerFacts(readOnly) });
    expect(await good(server.get)).toEqual(["/replica", "/read-only", "/health"]);
    await readOnly.end();
  });

  test("whose agent is a standby has a master all the same, and knows no lag", async () => {
    await using server = await serving(agentStatus({ role: "standby" }));
    expect(await good(server.get)).toEqual(paths);
    expect((await server.get("/replica?lag=1h")).status).toBe(503);
  });
});

describe("/replica?lag=", () => {
  test("compares with the peer that the region is most behind of", async () => {
    const status = agentStatus();
    await using server = await serving(status);
    const of = async (lag: string): Promise<number> => (await server.get(`/replica?lag=${lag}`)).status;
    expect([await of("0"), await of("0s")]).toEqual([200, 200]);
    status.link.pendingCommitMs = nowMs - 4_000;
    status.link.mergedLsn = 1_000_000n;
    status.link.sourceLsn = 1_020_480n;
    expect(await Promise.all(["5s", "4s", "3999ms", "20kB", "19kB", "20480", "20479"].map(of))).toEqual([
      200, 200, 503, 200, 503, 200, 503,
    ]);
    expect((await server.get("/read-only?lag=1s")).status).toBe(503);
    expect((await server.get("/primary?lag=1s")).status).toBe(200);
  });

  test("a link that is down is as far behind as it was last known to be level, and its bytes are not known", async () => {
    const status = agentStatus();
    status.link.state = "waiting";
    await using server = await serving(status);
    const of = async (lag: string): Promise<number> => (await server.get(`/replica?lag=${lag}`)).status;
    expect(await Promise.all(["59s", "60s", "1TB"].map(of))).toEqual([503, 200, 503]);
    expect((await server.get("/replica")).status).toBe(200);
    expect((await server.get("/health")).body).toMatchObject({
      coregent: { lag_seconds: 60, lag_bytes: null },
    });
  });

  test("what is no amount is refused, and not passed over", async () => {
    await using server = await serving(agentStatus());
    for (const lag of ["soon", "-1", "5parsecs", "", "1e9"]) {
      expect((await server.get(`/replica?lag=${lag}`)).status).toBe(400);
    }
    expect((await server.get("/replica?lag=5s&lag=soon")).status).toBe(200);
  });

  test.each([
    ["16kB", { bytes: 16_384 }],
    ["64 MB", { bytes: 67_108_864 }],
    ["1.5GB", { bytes: 1_610_612_736 }],
    ["1048576", { bytes: 1_048_576 }],
    ["500ms", { seconds: 0.5 }],
    ["2min", { seconds: 120 }],
    ["1d", { seconds: 86_400 }],
  ])("%s", (text, bound) => {
    expect(parseLagBound(text)).toEqual(bound);
  });
});
