import { once } from "node:events";
import { request } from "node:http";
import { connect } from "node:net";
import { fastify } from "fastify";
import { pino } from "pino";
import { describe, expect, test } from "vitest";
import { type EndpointSettings, openEndpoint } from "../../regions/endpoint-settings.ts";
import { systemClock } from "../../src/clock.ts";
import { registerOutages } from "../../src/http/outage-routes.ts";
import { type AdminAction, authorize, registerSecurity } from "../../src/http/security.ts";
import { OutageRegistry } from "../../src/outages/registry.ts";
import { type Api, createApi } from "./api-fixture.ts";
import { as, token } from "./tokens.ts";

const schema = `
CREATE TABLE notes (id uuid PRIMARY KEY, body text NOT NULL);
CREATE TABLE secrets (id uuid PRIMARY KEY, body text NOT NULL)`;

const closed: EndpointSettings = {
  ...openEndpoint,
  anonymous: null,
  tokens: [token("report", "reader", ["public.notes"]), token("backend", "writer"), token("ops", "admin")],
};

const registry = (): OutageRegistry =>
  new OutageRegistry({
    here: "moldova",
    clock: systemClock(),
    random: () => 0.5,
    logger: pino({ level: "silent" }),
  });

const secured = (
  settings: EndpointSettings,
  outages = registry(),
  actions: AdminAction[] = [],
): Promise<Api> =>
  createApi(schema, {
    parts: { authorize },
    server: {
      security: () => settings,
      hosts: () => ["db.example"],
      onAdminAction: (action) => actions.push(action),
      register: [
        (app) =>
          registerOutages(app, {
            registry: outages,
            allowed: () => true,
            regions: () => ["moldova", "argentina"],
          }),
      ],
    },
  });

/** The path goes out as it is: `fetch` would tidy it. */
const statusOf = (url: string, path: string, headers: Record<string, string>): Promise<number> => {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  const { hostname, port } = new URL(url);
  request({ hostname, port, path, headers }, (answer) => {
    answer.resume();
    resolve(answer.statusCode ?? 0);
  })
    .once("error", reject)
    .end();
  return promise;
};

const notes = "/v1/tables/notes/rows";
const secrets = "/v1/tables/secrets/rows";

describe("with tokens", () => {
  test("who has none learns nothing, but whether the region is well and how to ask", async () => {
    await using api = await secured(closed);
    for (const path of [notes, "/v1/status", "/metrics", "/v1/admin/outages"]) {
      const { status, headers, json } = await api.ask("GET", path);
      expect([path, status, (json as { code: string }).code]).toEqual([path, 401, "token-missing"]);
      expect(headers.get("www-authenticate")).toContain("Bearer");
    }
    for (const path of ["/livez", "/readyz", "/openapi.json"]) {
      expect([path, (await api.ask("GET", path)).status]).toEqual([path, 200]);
    }
    const page = await fetch(`${api.url}/docs/`);
    expect(page.status).toBe(200);
    expect(page.headers.get("x-content-type-options")).toBe("nosniff");
    expect(page.headers.get("content-security-policy")).toContain("default-src 'self'");
  });

  test("each may do what its role and its tables allow, and nothing is done otherwise", async () => {
    await using api = await secured(closed);
    const ask = async (name: string, method: string, path: string, body?: unknown): Promise<number> =>
      (await api.ask(method, path, body, as(name))).status;
    expect(await ask("backend", "POST", notes, { body: "x" })).toBe(201);
    expect(await ask("report", "GET", notes)).toBe(200);
    expect(await ask("report", "GET", secrets)).toBe(403);
    expect(await ask("report", "POST", notes, { body: "y" })).toBe(403);
    expect(await ask("backend", "GET", "/v1/admin/outages")).toBe(403);
    expect(await ask("ops", "GET", "/v1/admin/outages")).toBe(200);
    const transaction = {
      operations: [
        { op: "select", table: "notes", query: "limit=1" },
        { op: "select", table: "secrets", query: "limit=1" },
      ],
    };
    expect(await ask("report", "POST", "/v1/transactions", transaction)).toBe(403);
    expect(await ask("stranger", "GET", notes)).toBe(401);
    expect(await api.db.query("SELECT count(*)::int AS n FROM notes")).toEqual([{ n: 1 }]);
  });

  test("an administrator's address is one in every spelling that leads to it", async () => {
    await using api = await secured(closed);
    const { host } = new URL(api.url);
    for (const path of [
      "/v1/%61dmin/outages",
      "/v1/admin%2Foutages",
      "//v1/admin/outages",
      "/v1/../v1/admin/outages",
      `http://${host}/v1/admin/outages`,
      `http://${host}/livez/../v1/admin/outages`,
    ]) {
      expect([401, 404]).toContain(await statusOf(api.url, path, {}));
      expect([path, await statusOf(api.url, path, as("report"))]).not.toEqual([path, 200]);
    }
  });

  test("an administrator begins and heals outages, and is told what does not fit", async () => {
    await using outages = registry();
    await using api = await secured(closed, outages);
    const ask = (method: string, path: string, body?: unknown) => api.ask(method, path, body, as("ops"));
    const path = "/v1/admin/outages";
    const begun = await ask("POST", path, { id: "o1", kind: "link", from: "moldova", to: "argentina" });
    expect([begun.status, begun.json]).toMatchObject([201, { id: "o1", kind: "link", endsAt: null }]);
    expect(outages.list()).toHaveLength(1);
    expect((await ask("GET", path)).json).toMatchObject({ allowed: true, outages: [{ id: "o1" }] });
    for (const wrong of [
      { id: "o2", kind: "link", from: "moldova", to: "atlantis" },
      { id: "o2", kind: "link", from: "moldova", to: "moldova" },
      { id: "o2", kind: "flood", region: "moldova" },
      { id: "o2", kind: "region", region: "moldova", forMs: -1 },
      { id: "o2", kind: "latency", from: "moldova", to: "argentina" },
    ]) {
      const { status, json } = await ask("POST", path, wrong);
      expect([status, (json as { code: string }).code]).toEqual([400, "body-invalid"]);
    }
    expect((await ask("DELETE", `${path}/o1`)).json).toEqual({ healed: 1 });
    expect((await ask("DELETE", `${path}/o1`)).status).toBe(404);
    expect(outages.list()).toEqual([]);
  });
});

test("what is asked for at an administrator's address is told: by whom, and what came of it", async () => {
  const actions: AdminAction[] = [];
  await using outages = registry();
  await using api = await secured(closed, outages, actions);
  const path = "/v1/admin/outages";
  await api.ask("GET", path, undefined, as("ops"));
  const begun = { id: "o1", kind: "region", region: "argentina" };
  await api.ask("POST", path, begun, as("ops"));
  await api.ask("POST", path, { ...begun, kind: "flood" }, as("ops"));
  await api.ask("DELETE", `${path}/o1`, undefined, as("backend"));
  await api.ask("DELETE", `${path}?secret=token-of-ops`);
  await api.ask("DELETE", `${path}/o1`, undefined, as("ops"));
  await api.ask("DELETE", path, undefined, as("ops"));
  await expect.poll(() => actions.length).toBe(6);
  expect(
    actions.map(({ by, isAdmin, method, path: asked, status, outcome }) => [
      by,
      isAdmin,
      `${method} ${asked}`,
      status,
      outcome,
    ]),
  ).toEqual([
    ["ops", true, `POST ${path}`, 201, "outage o1 begun: region argentina, until it is healed"],
    ["ops", true, `POST ${path}`, 400, null],
    ["backend", false, `DELETE ${path}/o1`, 403, null],
    [null, false, `DELETE ${path}`, 401, null],
    ["ops", true, `DELETE ${path}/o1`, 200, "outage o1 healed"],
    ["ops", true, `DELETE ${path}`, 200, "all outages healed: 0"],
  ]);
  expect(JSON.stringify(actions)).not.toContain("token-of");
});

test("a client that has its connections is told so at one more, and gets in again when one of them is closed", async () => {
  const one = { ...openEndpoint, connectionsPerAddress: 1, sharedAddresses: [] };
  await using api = await secured(one);
  const first = connect(api.port, "127.0.0.1");
  await once(first, "connect");
  const path = "/v1/tables/notes/rows";
  await expect
    .poll(async () => (await api.ask("GET", path)).json)
    .toMatchObject({
      code: "too-many-connections",
      status: 429,
      retryable: true,
      detail: "an address may have 1 connections open",
    });
  const refused = await api.ask("POST", path, { body: "x" });
  expect([refused.status, refused.headers.get("connection"), refused.headers.get("retry-after")]).toEqual([
    429,
    "close",
    "1",
  ]);
  expect(await api.db.query("SELECT FROM notes")).toEqual([]);
  // Those beyond are hung up on at once, and hold no place.
  const crowd = Array.from({ length: 40 }, () => connect(api.port, "127.0.0.1"));
  await Promise.race(crowd.map((socket) => once(socket, "close")));
  for (const socket of [first, ...crowd]) socket.destroy();
  await expect.poll(async () => (await api.ask("GET", path)).status).toBe(200);
});

test("more requests than the rate are refused with a time to wait, and health is still told", async () => {
  await using api = await secured({ ...closed, requestsPerSecond: 5 });
  const answers = await Promise.all(
    Array.from({ length: 40 }, () => api.ask("GET", "/v1/status", undefined, as("ops"))),
  );
  const refused = answers.filter(({ status }) => status === 429);
  // The second may turn meanwhile, more than once on a slow machine.
  expect(refused.length).toBeGreaterThan(0);
  expect(refused[0]?.json).toMatchObject({ code: "rate-exceeded", retryable: true });
  expect(refused[0]?.headers.get("retry-after")).toBe("1");
  expect((await api.ask("GET", "/livez")).status).toBe(200);
});

describe("without tokens, where being on this machine is enough", () => {
  const rowIds = (api: Api) => api.db.query("SELECT id FROM notes");
  const code = ({ json }: { json: unknown }): unknown => (json as { code?: string }).code;

  test("a page of the web gets in neither by a name of its own for this address nor from another site", async () => {
    await using api = await secured(openEndpoint);
    const { port } = api;
    const asked = (headers: Record<string, string>) => statusOf(api.url, notes, headers);
    for (const host of ["evil.example", `evil.example:${port}`, "127.0.0.1.evil.example", "localhost@evil"]) {
      expect([host, await asked({ host })]).toEqual([host, 421]);
    }
    for (const host of [
      `127.0.0.1:${port}`,
      "localhost",
      `LOCALHOST:${port}`,
      `[::1]:${port}`,
      "db.example:80",
    ]) {
      expect([host, await asked({ host })]).toEqual([host, 200]);
    }
    for (const origin of ["https://evil.example", "null", "http://127.0.0.1.evil.example", "file://"]) {
      const refused = await api.ask("POST", notes, { body: "x" }, { origin });
      expect([origin, refused.status, code(refused)]).toEqual([origin, 403, "origin-refused"]);
    }
    expect(await rowIds(api)).toEqual([]);
    const own = { origin: `http://localhost:${port}` };
    expect((await api.ask("POST", notes, { body: "x" }, own)).status).toBe(201);
    expect((await fetch(`${api.url}/livez`, { headers: { origin: "https://evil.example" } })).status).toBe(
      200,
    );
  });

  test("other machines do not get in, also where the endpoint listens for them since it asked for tokens once", async () => {
    let settings = closed;
    await using app = fastify();
    registerSecurity(app, { settings: () => settings, hosts: () => ["db.example"] });
    app.get("/v1/status", () => Promise.resolve({}));
    const statusFrom = async (remoteAddress: string, host: string): Promise<number> =>
      (await app.inject({ url: "/v1/status", remoteAddress, headers: { host } })).statusCode;
    expect(await statusFrom("127.0.0.1", "localhost")).toBe(401);
    settings = openEndpoint;
    for (const address of ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8::7"]) {
      expect([address, await statusFrom(address, "localhost")]).toEqual([address, 401]);
      expect([address, await statusFrom(address, "db.example")]).toEqual([address, 401]);
    }
    for (const address of ["127.0.0.1", "::1", "::ffff:127.0.0.1"]) {
      expect([address, await statusFrom(address, "localhost")]).toEqual([address, 200]);
    }
  });

  test("what a form can send is refused, and no page is told that it may send more", async () => {
    await using api = await secured(openEndpoint);
    const body = JSON.stringify({ body: "x" });
    const types = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""];
    for (const path of [notes, "/v1/transactions", "/v1/admin/outages"]) {
      for (const type of types) {
        const { status } = await api.ask("POST", path, body, { "content-type": type });
        expect([401, 403, 415]).toContain(status);
      }
      expect((await fetch(api.url + path, { method: "POST" })).status).toBeGreaterThanOrEqual(400);
      const asking = { "access-control-request-method": "POST", origin: "http://localhost" };
      const preflight = await fetch(api.url + path, { method: "OPTIONS", headers: asking });
      expect([preflight.status, preflight.headers.get("access-control-allow-origin")]).toEqual([404, null]);
    }
    expect(await rowIds(api)).toEqual([]);
  });

  test("with a token it does not matter by what name one asks", async () => {
    await using api = await secured(closed);
    expect(await statusOf(api.url, notes, { ...as("backend"), host: "moldova.example" })).toBe(200);
  });
});

describe("of one address", () => {
  const codes = (answers: readonly { json: unknown }[]): Map<string, number> => {
    const found = new Map<string, number>();
    for (const { json } of answers) {
      const { code } = json as { code: string };
      found.set(code, (found.get(code) ?? 0) + 1);
    }
    return found;
  };
  const slow = { ...closed, requestsPerSecond: 5 };
  const many = (api: Api, path: string, headers: () => Record<string, string>) =>
    Promise.all(Array.from({ length: 40 }, () => api.ask("GET", path, undefined, headers())));

  test.each([
    ["no token", "token-missing", () => ({})],
    ["tokens that are guessed", "token-invalid", () => as(Math.random().toString(36))],
  ])(
    "too many requests with %s are told to wait, and those with a right one are served",
    async (_, code, headers) => {
      await using api = await secured(slow);
      const answers = await many(api, "/v1/status", headers);
      const found = codes(answers);
      expect(found.get(code)).toBeGreaterThan(0);
      expect(found.get("rate-exceeded")).toBeGreaterThan(0);
      const late = answers.find(({ status }) => status === 429);
      expect(late?.headers.get("retry-after")).toBe("1");
      expect((await api.ask("GET", "/v1/status", undefined, as("ops"))).status).toBe(200);
    },
  );

  test("the pages that need no token are bounded too, and health is not", async () => {
    await using api = await secured(slow);
    expect(codes(await many(api, "/openapi.json", () => ({}))).get("rate-exceeded")).toBeGreaterThan(0);
    const well = await many(api, "/livez", () => ({}));
    expect(well.filter(({ status }) => status !== 200)).toEqual([]);
  });

  test("what a role does not allow counts like what it allows", async () => {
    await using api = await secured(slow);
    const answers = await many(api, "/v1/admin/outages", () => as("backend"));
    expect(codes(answers).get("forbidden")).toBeGreaterThan(0);
    expect(codes(answers).get("rate-exceeded")).toBeGreaterThan(0);
  });
});
