import { inspect } from "node:util";
import { describe, expect, test } from "vitest";
import { noClientSettings } from "../../regions/client-settings.ts";
import { hostPort, parseTopology, type Topology } from "../../regions/topology.ts";
import { defaultWriterSettings } from "../../regions/writer-settings.ts";
import { exampleEnv, exampleYaml } from "./example.ts";

/** The example has 21 lines; what is added begins at line 22. */
const withMore = (yaml: string): string => exampleYaml + yaml;

const topologyOf = (yaml: string, env: Record<string, string> = exampleEnv): Topology => {
  const parsed = parseTopology(yaml, env);
  if (parsed.problems !== undefined) {
    throw new Error(inspect(parsed.problems));
  }
  return parsed.topology;
};

const problemsOf = (yaml: string): string[] =>
  (parseTopology(yaml, exampleEnv).problems ?? []).map(
    ({ line, column, message }) => `${line}:${column} ${message}`,
  );

test("what is left out has its usual value", () => {
  const { writer, clients, outages, tables, regions } = topologyOf(exampleYaml);
  expect(writer).toEqual(defaultWriterSettings);
  expect(clients).toEqual(noClientSettings);
  expect(outages).toEqual({ allowed: false });
  expect(tables.map(({ route }) => route)).toEqual(["owner", "owner"]);
  expect(regions.map(({ entrance }) => entrance)).toEqual([null, null]);
});

test("a failed master is told in time to write elsewhere within three seconds, by the usual settings", () => {
  const { probeMs, probeTimeoutMs, failuresToDown } = defaultWriterSettings;
  // The worst case: it fell silent just after it answered.
  expect(probeMs + failuresToDown * probeTimeoutMs).toBeLessThanOrEqual(2_100);
});

test("the writer's bounds, each by its name", () => {
  const valueOf = (name: string): number => (name.endsWith("Ms") ? 2_000 : 7);
  for (const name of Object.keys(defaultWriterSettings)) {
    expect(topologyOf(withMore(`writer: { ${name}: ${valueOf(name)} }\n`)).writer, name).toEqual({
      ...defaultWriterSettings,
      [name]: valueOf(name),
    });
    expect(problemsOf(withMore(`writer:\n  ${name}: -1\n`))[0], name).toMatch(
      new RegExp(`^23:${name.length + 5} writer.${name} must be a whole number from \\d+ to \\d+$`),
    );
  }
  const { writer } = topologyOf(withMore("writer:\n  maxQueue: ${QUEUE}\n"), { ...exampleEnv, QUEUE: "9" });
  expect(writer.maxQueue).toBe(9);
});

test("a table's route, an entrance, outages, and where clients are", () => {
  const yaml = exampleYaml
    .replace("failover: provisional", "failover: provisional\n    route: nearest")
    .replace("api: http://127.0.0.1:8080", 'api: http://127.0.0.1:8080\n    entrance: "[::1]:6432"')
    .replace("api: http://127.0.0.1:8081/", "api: http://127.0.0.1:8081/\n    entrance: 0.0.0.0:6433");
  const topology = topologyOf(`${yaml}outages: { allowed: true }
clients:
  countryHeader: CF-IPCountry
  regionHeader: cf-region-code
  places:
    - { code: us-ca, latitude: 37.2, longitude: -119.5 }
`);
  expect(topology.tables.map(({ route }) => route)).toEqual(["nearest", "owner"]);
  expect(topology.regions.map(({ entrance }) => entrance && hostPort(entrance))).toEqual([
    "[::1]:6432",
    "0.0.0.0:6433",
  ]);
  expect(topology.outages).toEqual({ allowed: true });
  expect(topology.clients).toEqual({
    countryHeader: "cf-ipcountry",
    regionHeader: "cf-region-code",
    places: [{ code: "US-CA", latitude: 37.2, longitude: -119.5 }],
  });
});

test("true and false may come out of a variable", () => {
  const yaml = withMore("outages: { allowed: '${OUTAGES}' }\n");
  expect(topologyOf(yaml, { ...exampleEnv, OUTAGES: "true" }).outages.allowed).toBe(true);
  expect(topologyOf(yaml, { ...exampleEnv, OUTAGES: "false" }).outages.allowed).toBe(false);
  expect(parseTopology(yaml, { ...exampleEnv, OUTAGES: "yes" }).problems).toHaveLength(1);
});

describe("refused", () => {
  test.each([
    [
      "a bound's name misspelt",
      "writer:\n  maxQeue: 1\n",
      '23:3 the key "maxQeue" is not known here; did you mean "maxQueue"?',
    ],
    [
      "a bound that is no whole number",
      "writer: { maxQueue: 1.5 }\n",
      "22:21 writer.maxQueue must be a whole number from 1 to 100000",
    ],
    [
      "a list of bounds",
      "writer: []\n",
      "22:9 writer must be a mapping with the keys maxInFlight, maxQueue, maxWaitMs",
    ],
    [
      "a fence before the warning",
      "writer:\n  warnSkewMs: 5000\n  fenceSkewMs: 4000\n",
      "24:16 writer.fenceSkewMs is at odds: fenceSkewMs (4000) must not be below warnSkewMs (5000)",
    ],
    ["outages with a word", "outages: { allowed: yes }\n", "22:21 outages.allowed must be true or false"],
    ["outages without a word", "outages: {}\n", '22:10 outages has no "allowed"'],
    [
      "a header's name",
      "clients:\n  countryHeader: 'cf ipcountry'\n",
      '23:18 clients.countryHeader must be the name of a header, such as cf-ipcountry; it is "cf ipcountry"',
    ],
    [
      "a place's code",
      "clients:\n  places:\n    - { code: Moldova, latitude: 1, longitude: 1 }\n",
      '24:15 clients.places[0].code must be an ISO 3166 code such as AR or US-CA; it is "Moldova"',
    ],
    [
      "a place twice",
      "clients:\n  places:\n    - { code: AR, latitude: 1, longitude: 1 }\n    - { code: ar, latitude: 1, longitude: 1 }\n",
      "25:15 clients.places[1].code is listed twice",
    ],
    [
      "a place off the Earth",
      "clients:\n  places:\n    - { code: AR, latitude: 91, longitude: 1 }\n",
      "24:29 clients.places[0].latitude must be in degrees from -90 to 90",
    ],
  ])("%s", (_, more, problem) => {
    expect(problemsOf(withMore(more))[0]).toContain(problem);
  });

  test.each(["6432", "localhost", "localhost:0", "localhost:65536", "::1:6432", "a b:1", "http://a:1"])(
    "the entrance %s",
    (address) => {
      const yaml = exampleYaml.replace(/(api: .*8081\/)/, `$1\n    entrance: "${address}"`);
      expect(problemsOf(yaml)).toEqual([
        "15:15 regions[1].entrance must be HOST:PORT, such as 127.0.0.1:6432 or [::1]:6432",
      ]);
    },
  );

  test("a route without an owner, and one that there is not", () => {
    expect(problemsOf(withMore("    route: nearest\n"))).toEqual([
      "22:12 tables[1].route has no meaning without an owner column: name one, or leave it out",
    ]);
    expect(problemsOf(exampleYaml.replace("conflict: latest", "route: owners"))).toEqual([
      '20:12 tables[0].route must be one of owner, nearest, not "owners"; did you mean "owner"?',
    ]);
  });
});
