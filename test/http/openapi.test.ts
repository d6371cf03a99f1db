import type { AddressInfo } from "node:net";
import { Validator } from "@seriousme/openapi-schema-validator";
import { pino } from "pino";
import { Registry } from "prom-client";
import { Compile } from "typebox/compile";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openEndpoint } from "../../regions/endpoint-settings.ts";
import { systemClock } from "../../src/clock.ts";
import { usualBounds } from "../../src/http/api-parts.ts";
import { registerMetrics } from "../../src/http/metrics.ts";
import { registerOutages } from "../../src/http/outage-routes.ts";
import { registerPatroni } from "../../src/http/patroni.ts";
import { registerRouting } from "../../src/http/route-routes.ts";
import { authorize } from "../../src/http/security.ts";
import { createAgentServer } from "../../src/http/server.ts";
import { OutageRegistry } from "../../src/outages/registry.ts";
import { readServerFacts } from "../../src/postgres/server-facts.ts";
import { WritingRegions } from "../write/masters-fixture.ts";
import { agentStatus } from "./agent-fixture.ts";
import { as, token } from "./tokens.ts";

/** What /openapi.json says is true of an endpoint with all its routes, before real masters. */

interface Described {
  readonly paths: Readonly<Record<string, Readonly<Record<string, { readonly responses: Responses }>>>>;
}
type Responses = Readonly<
  Record<string, { readonly content?: Readonly<Record<string, { readonly schema: object }>> }>
>;

let all: WritingRegions;
let outages: OutageRegistry;
let server: ReturnType<typeof createAgentServer>;
let url: string;
let described: Described;

beforeAll(async () => {
  all = await WritingRegions.create();
  const { writer } = await all.writer("a");
  const topology = all.topology();
  const facts = await all.regions.db("a").connect();
  const status = agentStatus();
  status.link.state = "waiting";
  const registry = new Registry();
  registerMetrics({ registry, status, now: Date.now });
  const clock = systemClock();
  outages = new OutageRegistry({ here: "a", clock, random: () => 0.5, logger: pino({ level: "silent" }) });
  server = createAgentServer({
    status,
    registry,
    now: Date.now,
    pingDatabase: () => Promise.resolve(),
    api: {
      cluster: "c",
      region: "a",
      writer,
      catalog: writer.catalog,
      authorize,
      now: Date.now,
      bounds: usualBounds,
    },
    security: () => ({ ...openEndpoint, tokens: [token("ops", "admin")] }),
    register: [
      (app) => registerRouting(app, { writer, region: "a", topology: () => topology, authorize }),
      (app) =>
        registerOutages(app, { registry: outages, allowed: () => true, regions: () => ["a", "b", "c"] }),
      (app) =>
        registerPatroni(app, {
          status,
          now: Date.now,
          facts: () => readServerFacts(facts),
          drained: () => false,
          fenced: () => null,
        }),
    ],
  });
  await server.listen({ host: "127.0.0.1", port: 0 });
  url = `http://127.0.0.1:${(server.server.address() as AddressInfo).port}`;
  described = (await (await fetch(`${url}/openapi.json`)).json()) as Described;
});
afterAll(async () => {
  await server?.close();
  await outages?.[Symbol.asyncDispose]();
  await all?.[Symbol.asyncDispose]();
});

test("the description is valid OpenAPI 3.1", async () => {
  const { valid, errors } = await new Validator().validate({ ...described });
  expect([valid, errors]).toEqual([true, undefined]);
  expect(described).toMatchObject({ openapi: "3.1.0" });
});

test("the page that shows it loads over plain http", async () => {
  const page = await fetch(`${url}/docs/`);
  expect(page.headers.get("content-security-policy")).not.toContain("upgrade-insecure-requests");
  expect(await page.text()).toContain("swagger-ui");
});

const templates = (): [string, RegExp][] =>
  Object.keys(described.paths).map((path) => [
    path,
    new RegExp(`^${path.replaceAll(/\{[^}]+\}/g, "[^/]+")}$`),
  ]);

/** The schema of an answer; null: it has no content. */
const schemaOf = (method: string, path: string, answer: Response): object | null => {
  const [template = ""] = templates().find(([, pattern]) => pattern.test(path)) ?? [];
  const responses = described.paths[template]?.[method.toLowerCase()]?.responses ?? {};
  const response = responses[answer.status] ?? responses[`${Math.trunc(answer.status / 100)}XX`];
  expect(response, `${method} ${path} ${answer.status} is described`).toBeDefined();
  // As was preferred, also where the description shows what comes otherwise.
  if (response?.content === undefined || answer.headers.get("content-length") === "0") return null;
  const [type = ""] = (answer.headers.get("content-type") ?? "").split(";");
  const schema = response.content[type]?.schema;
  expect(schema, `${method} ${path} ${answer.status} ${type} is described`).toBeDefined();
  return schema ?? null;
};

const rows = "/v1/tables/note/rows";
const outagesAt = "/v1/admin/outages";
const ops = as("ops");

type Case = readonly [
  method: string,
  path: string,
  status: number,
  body?: unknown,
  headers?: Record<string, string>,
];
const cases: readonly Case[] = [
  ["GET", "/livez", 200],
  ["GET", "/readyz", 200],
  ["GET", "/metrics", 200],
  ["GET", "/v1/status", 200],
  ["GET", "/v1/status", 401, undefined, as("stranger")],
  ["GET", "/primary", 200],
  ["GET", "/replica", 200],
  ["GET", "/replica?lag=1MB", 503],
  ["GET", "/replica?lag=long", 400],
  ["GET", "/health", 200],
  ["POST", rows, 201, { id: "1", body: "x", home_region: "a" }],
  ["POST", rows, 201, [{ id: "2" }, { id: "3" }]],
  ["POST", rows, 201, { id: "4" }, { prefer: "return=minimal" }],
  ["POST", rows, 409, { id: "1" }],
  ["POST", rows, 415, "x", { "content-type": "text/plain" }],
  ["GET", `${rows}?order=id&limit=2`, 200],
  ["GET", `${rows}?x=1`, 400],
  ["GET", `${rows}/1`, 200],
  ["GET", `${rows}/1`, 304, undefined, { "if-none-match": "*" }],
  ["GET", `${rows}/none`, 404],
  ["PATCH", `${rows}/1`, 200, { body: "y" }],
  ["PATCH", `${rows}/1`, 204, { body: "y" }, { prefer: "return=minimal" }],
  ["PATCH", `${rows}/1`, 412, { body: "y" }, { "if-match": '"1"' }],
  ["PUT", `${rows}/1`, 200, { body: "z" }],
  ["PUT", `${rows}/5`, 201, { body: "z" }],
  ["DELETE", `${rows}/5`, 200, undefined, { prefer: "return=representation" }],
  ["DELETE", `${rows}/4`, 204],
  ["POST", "/v1/transactions", 200, { operations: [{ op: "select", table: "note", query: "limit=1" }] }],
  ["POST", "/v1/transactions", 400, { operations: [{ op: "drop" }] }],
  ["GET", "/v1/route?table=note&key=1", 200],
  ["GET", "/v1/route?table=free", 200],
  ["GET", "/v1/route?table=none", 404],
  ["GET", "/v1/nearest?lat=1&lon=1", 200],
  ["GET", "/v1/nearest?lat=1", 400],
  ["POST", outagesAt, 201, { id: "o1", kind: "region", region: "b", forMs: 60_000 }, ops],
  ["POST", outagesAt, 201, { id: "o2", kind: "latency", from: "a", to: "b", roundTripMs: 1 }, ops],
  ["POST", outagesAt, 400, { id: "o3", kind: "flood" }, ops],
  ["GET", outagesAt, 200, undefined, ops],
  ["GET", outagesAt, 403],
  ["DELETE", `${outagesAt}/o1`, 200, undefined, ops],
  ["DELETE", `${outagesAt}/o1`, 404, undefined, ops],
  ["DELETE", outagesAt, 200, undefined, ops],
];

describe("what is answered is as described", () => {
  test.each(cases.map((one) => ({ one, name: one.slice(0, 3).join(" ") })))("$name", async ({ one }) => {
    const [method, path, status, body, headers] = one;
    const type = body === undefined ? {} : { "content-type": "application/json" };
    const answer = await fetch(url + path, {
      method,
      headers: { ...type, ...headers },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await answer.text();
    expect([answer.status, text]).toEqual([status, text]);
    const [pathname = ""] = path.split("?");
    const schema = schemaOf(method, pathname, answer);
    if (schema === null) {
      expect(text).toBe("");
      return;
    }
    const isJson = answer.headers.get("content-type")?.includes("json") === true;
    const value: unknown = isJson ? JSON.parse(text) : text;
    expect(Compile(schema).Errors(value)).toEqual([]);
    expect(unknownMembers(schema, value)).toEqual([]);
  });

  test("and every route is among them", () => {
    const tried = new Set(
      cases.map(([method, path]) => {
        const [pathname = ""] = path.split("?");
        const [template] = templates().find(([, pattern]) => pattern.test(pathname)) ?? [];
        return `${method} ${template}`;
      }),
    );
    const routes = Object.entries(described.paths).flatMap(([path, methods]) =>
      Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
    );
    // The same as /primary and /replica.
    const doubles = ["GET /read-write", "GET /read-only"];
    expect(routes.filter((route) => !tried.has(route)).sort()).toEqual(doubles.sort());
  });
});

/** Members that a schema with properties does not name. */
const unknownMembers = (schema: object, value: unknown): string[] => {
  const { properties } = schema as { properties?: Record<string, object> };
  if (properties === undefined || typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([name, member]) => {
    const form = properties[name];
    return form === undefined ? [name] : unknownMembers(form, member);
  });
};
