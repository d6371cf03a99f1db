import type { AddressInfo } from "node:net";
import { Registry } from "prom-client";
import { stringify } from "yaml";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import type { Topology } from "../../regions/topology.ts";
import { registerRoute } from "../../src/cli/route.ts";
import { allowAll } from "../../src/http/api-parts.ts";
import { registerRouting } from "../../src/http/route-routes.ts";
import { createAgentServer } from "../../src/http/server.ts";
import type { Masters } from "../../src/write/masters.ts";
import { folderWith, run } from "../cli/harness.ts";
import { healths, WritingRegions } from "../write/masters-fixture.ts";
import { agentStatus } from "./agent-fixture.ts";

let all: WritingRegions;

beforeAll(async () => {
  all = await WritingRegions.create();
  await all.regions.db("a").query("INSERT INTO public.note VALUES ('r1', 'x', 'b'), ('r,2', 'x', NULL)");
});
afterEach(() => all.calm());
afterAll(() => all[Symbol.asyncDispose]());

/** The endpoint of region a. */
const serve = async (
  clients: Partial<Topology["clients"]> = {},
): Promise<AsyncDisposable & { readonly url: string; readonly masters: Masters }> => {
  const { writer, masters } = await all.writer("a");
  const topology = { ...all.topology(), clients: { ...all.topology().clients, ...clients } };
  const server = createAgentServer({
    status: agentStatus(),
    registry: new Registry(),
    now: () => 0,
    pingDatabase: () => Promise.resolve(),
    register: [
      (app) => registerRouting(app, { writer, region: "a", topology: () => topology, authorize: allowAll }),
    ],
  });
  await server.listen({ host: "127.0.0.1", port: 0 });
  return {
    url: `http://127.0.0.1:${(server.server.address() as AddressInfo).port}`,
    masters,
    [Symbol.asyncDispose]: () => server.close(),
  };
};

const json = async (url: string, headers: Record<string, string> = {}): Promise<Record<string, unknown>> => {
  const response = await fetch(url, { headers });
  return { status: response.status, ...((await response.json()) as object) };
};

test("GET /v1/route says which master and why", async () => {
  await using server = await serve();
  expect(await json(`${server.url}/v1/route?table=note&key=r1`)).toMatchObject({
    status: 200,
    table: "public.note",
    key: ["r1"],
    ownerColumn: "home_region",
    owner: "b",
    route: "owner",
    failover: "takeover",
    target: "b",
    takeover: false,
    regions: [
      { region: "b", choice: "owner", candidate: true, because: "owns the rows" },
      { region: "a", choice: "here", candidate: true, because: "is this region's own master" },
      { region: "c", choice: "nearest", candidate: true },
    ],
  });
  expect(await json(`${server.url}/v1/route?table=note&key=r%2C2`)).toMatchObject({
    key: ["r,2"],
    owner: null,
    target: "a",
  });
  expect(await json(`${server.url}/v1/route?table=free`)).toMatchObject({
    ownerColumn: null,
    target: "a",
    key: null,
  });
  expect(await json(`${server.url}/v1/route?table=near&key=r1`)).toMatchObject({
    route: "nearest",
    target: "a",
  });
  all.line("b").cut({ mode: "reset" });
  await healths(server.masters, { b: "down" });
  expect(await json(`${server.url}/v1/route?table=note&key=r1`)).toMatchObject({
    target: "a",
    takeover: true,
  });
});

test("GET /v1/route refuses what it cannot answer", async () => {
  await using server = await serve();
  expect(await json(`${server.url}/v1/route`)).toMatchObject({ status: 400, code: "parameter-invalid" });
  expect(await json(`${server.url}/v1/route?table=note&kye=1`)).toMatchObject({ status: 400 });
  expect(await json(`${server.url}/v1/route?table=pg_class`)).toMatchObject({
    status: 404,
    code: "table-unknown",
  });
  expect(await json(`${server.url}/v1/route?table=note&key=%00`)).toMatchObject({ status: 200, owner: null });
});

test("GET /v1/nearest ranks for a place, for what trusted headers say, else for this region", async () => {
  await using server = await serve({ countryHeader: "x-country" });
  const ranked = async (query: string, headers: Record<string, string> = {}) => {
    const { place, regions } = (await json(`${server.url}/v1/nearest${query}`, headers)) as unknown as {
      place: { by: string };
      regions: { region: string; healthy: boolean; api: string }[];
    };
    return [place.by, ...regions.map(({ region }) => region)];
  };
  // a, b and c lie on the equator, at -130, -80 and -30 degrees.
  expect(await ranked("?lat=0&lon=-25")).toEqual(["query", "c", "b", "a"]);
  expect(await ranked("", { "x-country": "EC" })).toEqual(["header", "b", "c", "a"]);
  expect(await ranked("", { "x-country": "??" })).toEqual(["region", "a", "b", "c"]);
  expect(await ranked("", { "cf-ipcountry": "EC" })).toEqual(["region", "a", "b", "c"]);
  all.line("c").cut({ mode: "reset" });
  await healths(server.masters, { c: "down" });
  expect(await ranked("?lat=0&lon=-25")).toEqual(["query", "b", "a", "c"]);
  for (const query of ["?lat=1", "?lat=91&lon=0", "?lat=x&lon=0", "?lat=1e1&lon=0", "?lat=&lon="]) {
    expect(await json(`${server.url}/v1/nearest${query}`), query).toMatchObject({
      code: "parameter-invalid",
    });
  }
});

test("coregent route explain prints it, for people and for programs", async () => {
  await using server = await serve();
  const config = stringify({
    cluster: "c",
    regions: [
      { name: "a", id: 1, latitude: 0, longitude: 0, postgres: "postgres://h/d", api: server.url },
      { name: "b", id: 2, latitude: 0, longitude: 0, postgres: "postgres://i/d", api: "http://127.0.0.1:9" },
    ],
  });
  await using folder = await folderWith({ "coregent.yaml": config });
  const commands = [registerRoute];
  const told = await run(["route", "explain", "note", "r1"], { cwd: folder.path, commands });
  expect([told.code, told.stderr]).toEqual([0, ""]);
  expect(told.stdout).toContain("A write in a of the row r1 of public.note goes to b.");
  expect(told.stdout).toContain("The row is owned by b; if its owner is down: takeover.");
  expect(told.stdout).toMatch(/b +owner +owns the rows/);
  const data = await run(["route", "explain", "free", "--json"], { cwd: folder.path, commands });
  expect(JSON.parse(data.stdout)).toMatchObject({ region: "a", target: "a", key: null });
  const silent = await run(["route", "explain", "note", "-r", "b"], { cwd: folder.path, commands });
  expect(silent.code).toBe(1);
  expect(silent.stderr).toContain("CG-ROUTE-UNKNOWN");
  const unknown = await run(["route", "explain", "nothing"], { cwd: folder.path, commands });
  expect(unknown.stderr).toContain('there is no replicated table "nothing"');
});
