import { inspect } from "node:util";
import { describe, expect, test } from "vitest";
import { clusterSlug, findRegion, parseTopology, type Topology } from "../../regions/topology.ts";
import { exampleEnv, exampleYaml } from "./example.ts";

const topologyOf = (yaml: string, env: Record<string, string> = exampleEnv): Topology => {
  const parsed = parseTopology(yaml, env);
  if (parsed.problems !== undefined) {
    throw new Error(inspect(parsed.problems));
  }
  return parsed.topology;
};

/** `line:column message` of each problem. */
const problemsOf = (yaml: string, env: Record<string, string> = exampleEnv): string[] =>
  (parseTopology(yaml, env).problems ?? []).map(
    ({ line, column, message }) => `${line}:${column} ${message}`,
  );

const edited = (from: string | RegExp, to: string): string => {
  const result = exampleYaml.replace(from, () => to);
  expect(result).not.toBe(exampleYaml);
  return result;
};

test("a whole configuration is read", () => {
  const topology = topologyOf(exampleYaml);
  expect(topology.cluster).toBe("weightbook");
  expect(topology.regions.map(({ postgres, ...rest }) => ({ ...rest, url: postgres.reveal() }))).toEqual([
    {
      name: "moldova",
      id: 1,
      latitude: 47.01,
      longitude: 28.86,
      url: "postgres://app:s3cr3t-canary@moldova.example:5432/weightbook",
      api: "http://127.0.0.1:8080",
      entrance: null,
    },
    {
      name: "argentina",
      id: 2,
      latitude: -34.6,
      longitude: -58.38,
      url: "postgres://app:tango@argentina.example:5432/weightbook",
      api: "http://127.0.0.1:8081",
      entrance: null,
    },
  ]);
  expect(topology.schemas).toEqual(["public", "Training"]);
  expect(topology.tables).toEqual([
    {
      name: "public.workouts",
      schema: "public",
      table: "workouts",
      owner: "home_region",
      failover: "provisional",
      conflict: "latest",
      route: "owner",
    },
    {
      name: "Training.Set.entries",
      schema: "Training",
      table: "Set.entries",
      owner: null,
      failover: "takeover",
      conflict: "latest",
      route: "owner",
    },
  ]);
});

test("schemas and tables may be left out", () => {
  const topology = topologyOf(exampleYaml.slice(0, exampleYaml.indexOf("schemas:")));
  expect(topology.schemas).toEqual(["public"]);
  expect(topology.tables).toEqual([]);
});

test("regions are found by name, and the cluster's name becomes part of slot names", () => {
  expect(findRegion(topologyOf(exampleYaml), "argentina")?.id).toBe(2);
  expect(findRegion(topologyOf(exampleYaml), "Argentina")).toBeUndefined();
  expect(clusterSlug("Weight-Book_2")).toBe("weight_book_2");
});

test("anchors and aliases work as in any YAML", () => {
  const yaml = edited("latitude: 47.01", "latitude: &degrees 47.01").replace(
    "latitude: -34.6",
    "latitude: *degrees",
  );
  expect(topologyOf(yaml).regions[1]?.latitude).toBe(47.01);
});

test("all problems are listed at once, in the file's order, each with its place", () => {
  const yaml = `cluster: 9lives
regions:
  - name: moldova
    id: 0
    latitude: 91
    longitude: east
    postgres: mysql://root@localhost/x
    api: localhost:8080
  - name: Moldova
    id: 1.5
    longitud: 3
    longitude: .inf
    postgres: \${NOT_SET}
tables:
  - name: workouts
    conflict: merge
    failover: take-over
`;
  expect(problemsOf(yaml)).toEqual([
    '1:10 cluster must be made of letters, digits, "_" and "-" after a letter, at most 40; it is "9lives"',
    "4:9 regions[0].id must be a whole number from 1 to 1023",
    "5:15 regions[0].latitude must be in degrees from -90 to 90",
    "6:16 regions[0].longitude must be a number",
    "7:15 regions[0].postgres must begin with postgres://",
    "8:10 regions[0].api must be a URL such as http://127.0.0.1:8080",
    '9:5 regions[1] has no "latitude"',
    '9:5 regions[1] has no "api"',
    "9:11 regions[1].name repeats the name of regions[0]: each region needs its own",
    "10:9 regions[1].id must be a whole number from 1 to 1023",
    '11:5 the key "longitud" is not known here; did you mean "longitude"?',
    "12:16 regions[1].longitude must be a number",
    "13:15 regions[1].postgres needs the environment variable NOT_SET, which is not set",
    '15:11 tables[0].name must be schema.table, such as public.workouts (or "My schema"."My.table")',
    '16:15 tables[0].conflict is "merge", which is not available yet: write latest, or leave it out',
    '17:15 tables[0].failover must be one of takeover, provisional, not "take-over"; did you mean "takeover"?',
    "17:15 tables[0].failover has no meaning without an owner column: name one, or leave it out",
  ]);
});

describe("refused", () => {
  test.each([
    [
      "an unknown key",
      edited("cluster:", "clutser:"),
      '1:1 the key "clutser" is not known here; did you mean "cluster"?',
    ],
    [
      "a key far from any",
      edited("schemas:", "zzz:"),
      '15:1 the key "zzz" is not known here; known are cluster, regions, schemas, tables, writer, endpoint, clients, outages',
    ],
    ["a key twice", edited("schemas:", "cluster:"), "15:1 not valid YAML: this key is given twice"],
    [
      "an empty value",
      edited("weightbook", ""),
      "1:10 cluster must be a text (quote it if it looks like a number)",
    ],
    [
      "a number as name",
      edited("weightbook", "12"),
      "1:10 cluster must be a text (quote it if it looks like a number)",
    ],
    [
      "a region id twice",
      edited("id: 2", "id: 1"),
      "10:9 regions[1].id repeats the id of regions[0]: each region needs its own",
    ],
    [
      "an id out of range",
      edited("id: 2", "id: 1024"),
      "10:9 regions[1].id must be a whole number from 1 to 1023",
    ],
    ["an id as text", edited("id: 2", 'id: "2"'), "10:9 regions[1].id must be a number"],
    [
      "an api twice",
      edited(":8081/", ":8080"),
      "14:10 regions[1].api repeats the address of regions[0]: each region needs its own",
    ],
    [
      "an api with a path",
      edited(":8081/", ":8081/v1"),
      "14:10 regions[1].api must end after the host and port",
    ],
    [
      "one database twice",
      edited("argentina.example", "MOLDOVA.example"),
      "13:15 regions[1].postgres repeats the database of regions[0]: each region needs its own",
    ],
    [
      "no schema",
      edited("[public, Training]", "[]"),
      "15:10 schemas must name at least one schema, or be left out for [public]",
    ],
    [
      "a system schema",
      edited("Training]", "pg_catalog, Training]"),
      '15:19 schemas[1] is "pg_catalog", which cannot be replicated',
    ],
    [
      "a schema not listed",
      edited("[public, Training]", "[public]"),
      '21:11 tables[1].name is in the schema "Training", which "schemas" does not list',
    ],
    [
      "our own column as owner",
      edited("home_region", "cg_seen"),
      "18:12 tables[0].owner cannot be one of Coregent's own columns (cg_...)",
    ],
    [
      "a malformed variable",
      edited("MOLDOVA_PASSWORD", "moldova-password"),
      "7:30 regions[0].postgres has a ${ that is not ${NAME}: write $${ for a plain ${",
    ],
    [
      "two documents",
      `${exampleYaml}---\na: 1\n`,
      "22:1 not valid YAML: the file must hold one document: remove what follows the ---",
    ],
    ["an empty file", "", "1:1 the file must be a mapping with the keys cluster, regions"],
    ["a text", "weightbook", "1:1 the file must be a mapping with the keys cluster, regions"],
    ["regions as a mapping", "cluster: a\nregions: {}\n", "2:10 regions must be a list"],
    ["no regions", "cluster: a\nregions: []\n", "2:10 regions must name at least one region"],
    ["an open bracket", "cluster: [a\nregions: 1\n", "2:1 not valid YAML"],
  ])("%s", (_, yaml, problem) => {
    expect(problemsOf(yaml)[0]).toContain(problem);
  });

  test("a table listed twice, however it is quoted", () => {
    const yaml = edited('Training."Set.entries"', `'"public"."workouts"'`);
    expect(problemsOf(yaml)).toEqual(["21:11 tables[1].name is listed twice"]);
  });

  test("a variable that only the prototype has", () => {
    expect(problemsOf(edited("MOLDOVA_PASSWORD", "constructor"))[0]).toContain(
      "constructor, which is not set",
    );
  });
});

describe("variables", () => {
  test("stand in any text or number, and are not looked at again", () => {
    const yaml = edited("id: 2", "id: ${ID}").replace("weightbook\n", "w${REST}\n");
    const topology = topologyOf(yaml, { ...exampleEnv, ID: "7", REST: "x" });
    expect([topology.cluster, topology.regions[1]?.id]).toEqual(["wx", 7]);
    const nested = topologyOf(edited("tango", "${A}"), { ...exampleEnv, A: "${MOLDOVA_PASSWORD}" });
    expect(nested.regions[1]?.postgres.reveal()).toContain(":${MOLDOVA_PASSWORD}@");
  });

  test("cannot change the file's structure", () => {
    const yaml = edited("home_region", "${OWNER}");
    const topology = topologyOf(yaml, { ...exampleEnv, OWNER: "a\n    conflict: merge #" });
    expect(topology.tables[0]?.owner).toBe("a\n    conflict: merge #");
  });

  test("$${ is a plain ${", () => {
    const topology = topologyOf(edited("tango", "$${MOLDOVA_PASSWORD}"));
    expect(topology.regions[1]?.postgres.reveal()).toContain(":${MOLDOVA_PASSWORD}@");
  });

  test("a table's name is repeated as the file has it, never what a variable holds", () => {
    expect(problemsOf(edited("public.workouts", "${MOLDOVA_PASSWORD}public.workouts"))).toEqual([
      expect.stringContaining('is in the schema "${MOLDOVA_PASSWORD}public", which'),
    ]);
  });

  test("one that is not set is reported where it stands, in each of several lines", () => {
    const yaml = edited("tango", "${ARGENTINA}");
    expect(problemsOf(yaml, {})).toEqual([
      "7:30 regions[0].postgres needs the environment variable MOLDOVA_PASSWORD, which is not set",
      "13:30 regions[1].postgres needs the environment variable ARGENTINA, which is not set",
    ]);
  });
});
