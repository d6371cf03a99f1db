import { connect } from "node:net";
import { text } from "node:stream/consumers";
import { describe, expect, test } from "vitest";
import { listenAddress, parseListen } from "../../src/http/listen.ts";
import { agentStatus, startServer } from "./agent-fixture.ts";

const json = async (response: Response): Promise<Record<string, unknown>> =>
  (await response.json()) as Record<string, unknown>;

/** What the server answers to bytes that no HTTP client would send; ends when the server closes. */
const raw = async (port: number, bytes: string): Promise<string> => {
  const socket = connect(port, "127.0.0.1");
  socket.write(bytes);
  return text(socket);
};

describe("GET /livez and /readyz", () => {
  test("an active agent that reaches its database is ready, also while a peer is away", async () => {
    const status = agentStatus();
    status.link.state = "waiting";
    await using server = await startServer(status);
    const response = await server.get("/readyz");
    expect(response.status).toBe(200);
    expect(await json(response)).toEqual({ status: "ready", region: "moldova", role: "active", reasons: [] });
  });

  test.each(["starting", "standby", "stopping"] as const)("%s is alive and not ready", async (role) => {
    await using server = await startServer(agentStatus({ role }));
    const response = await server.get("/readyz");
    expect(response.status).toBe(503);
    expect(await json(response)).toMatchObject({ role, reasons: [{ code: role }] });
    expect((await server.get("/livez")).status).toBe(200);
  });

  test("a database that cannot be reached, and a link that has stopped, are both named", async () => {
    const status = agentStatus();
    status.link.state = "stopped";
    status.link.lastError = "permission denied for schema coregent";
    await using server = await startServer(status, {
      pingDatabase: () => Promise.reject(new Error("connect ECONNREFUSED 127.0.0.1:7432")),
    });
    const response = await server.get("/readyz");
    expect(response.status).toBe(503);
    expect(await json(response)).toMatchObject({
      reasons: [
        {
          code: "database_unreachable",
          message: expect.stringContaining("ECONNREFUSED") as string,
        },
        { code: "link_stopped", message: expect.stringContaining("permission denied") as string },
      ],
    });
  });

  test("a database that does not answer fails the probe within its bound, and is asked once by many probes", async () => {
    let asked = 0;
    const never = new Promise<void>(() => undefined);
    await using server = await startServer(agentStatus(), {
      pingTimeoutMs: 50,
      pingDatabase: () => {
        asked += 1;
        return never;
      },
    });
    const responses = await Promise.all(Array.from({ length: 20 }, () => server.get("/readyz")));
    expect(responses.map((response) => response.status)).toEqual(Array.from({ length: 20 }, () => 503));
    expect(asked).toBe(1);
  });
});

describe("a server that is closed", () => {
  /** A probe that is under way until `answer` is called. */
  const probed = async (bounds: { stopGraceMs: number }) => {
    const { promise: pinged, resolve: answer } = Promise.withResolvers<void>();
    const { promise: begun, resolve: begin } = Promise.withResolvers<void>();
    const server = await startServer(agentStatus(), {
      bounds,
      pingTimeoutMs: 60_000,
      pingDatabase: () => {
        begin();
        return pinged;
      },
    });
    await server.get("/livez");
    const response = server.get("/readyz");
    await begun;
    const closed = server[Symbol.asyncDispose]();
    await expect
      .poll(() =>
        server.get("/livez").then(
          () => "open",
          () => "closed",
        ),
      )
      .toBe("closed");
    return { answer, response, closed };
  };

  test("answers what has arrived, and does not wait for connections that are idle", async () => {
    const { answer, response, closed } = await probed({ stopGraceMs: 60_000 });
    answer();
    expect((await response).status).toBe(200);
    expect((await response).headers.get("connection")).toBe("close");
    await closed;
  });

  test("waits only so long", async () => {
    const { answer, response, closed } = await probed({ stopGraceMs: 50 });
    await expect(response).rejects.toThrow("fetch failed");
    await closed;
    answer();
  });
});

describe("GET /v1/status", () => {
  test("is JSON with WAL positions as PostgreSQL writes them", async () => {
    const status = agentStatus();
    status.link.mergedLsn = 0x16_b374_d848n;
    status.link.conflicts.set("public.users", new Map([["insert_exists", 2]]));
    status.link.misfits.set("public.workouts", "column effort is missing");
    await using server = await startServer(status);
    expect(await json(await server.get("/v1/status"))).toMatchObject({
      cluster: "weightbook",
      role: "active",
      links: [
        {
          peer: "argentina",
          state: "streaming",
          mergedLsn: "16/B374D848",
          conflicts: 2,
          misfits: { "public.workouts": "column effort is missing" },
        },
      ],
    });
  });
});

describe("bounds", () => {
  test("unknown paths and methods get a problem, not a page of ours", async () => {
    await using server = await startServer(agentStatus());
    for (const response of [
      await server.get("/metrics/../secret"),
      await fetch(`${server.url}/metrics`, { method: "DELETE" }),
    ]) {
      expect(response.status).toBe(404);
      expect(response.headers.get("content-type")).toContain("application/problem+json");
    }
  });

  test("headers and bodies beyond the bound are refused, and the server goes on", async () => {
    await using server = await startServer(agentStatus());
    expect(
      await raw(server.port, `GET /livez HTTP/1.1\r\nHost: x\r\nX: ${"a".repeat(20_000)}\r\n\r\n`),
    ).toMatch(/^HTTP\/1.1 431 /);
    const post = await fetch(`${server.url}/livez`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: "x".repeat(5000),
    });
    expect(post.status).toBe(413);
    expect(await raw(server.port, "nonsense\r\n\r\n")).toMatch(/^HTTP\/1.1 400 /);
    expect((await server.get("/livez")).status).toBe(200);
  });

  test("closing does not wait for a client that never ends its request", async () => {
    const server = await startServer(agentStatus());
    const slow = connect(server.port, "127.0.0.1");
    const answered = text(slow);
    slow.write("GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HTTP/1.1\r\nHo");
    await new Promise((resolve) => slow.once("readable", resolve));
    await server[Symbol.asyncDispose]();
    expect(await answered.catch(() => "reset")).toMatch(/^HTTP\/1.1 200 |^reset$/);
  }, 5000);
});

describe("where it listens", () => {
  test.each([
    ["http://127.0.0.1:7400", { host: "127.0.0.1", port: 7400 }],
    ["http://localhost:7400/", { host: "localhost", port: 7400 }],
    ["http://[::1]:7400", { host: "::1", port: 7400 }],
    ["https://moldova.example.com", { host: "127.0.0.1", port: 443 }],
    ["http://127.example.com:80", { host: "127.0.0.1", port: 80 }],
  ])("for api %s", (api, expected) => {
    expect(listenAddress(api)).toEqual(expected);
  });

  test.each([
    ["0.0.0.0:9000", { host: "0.0.0.0", port: 9000 }],
    ["[::]:9000", { host: "::", port: 9000 }],
  ])("with --listen %s", (listen, expected) => {
    expect(parseListen(listen)).toEqual(expected);
  });

  test.each(["7400", ":7400", "0.0.0.0", "0.0.0.0:99999", "::1:7400:x"])(
    "--listen %s is refused",
    (listen) => {
      expect(() => parseListen(listen)).toThrow(TypeError);
    },
  );
});
