import { describe, expect, test } from "vitest";
import { asksForToken, openEndpoint } from "../../regions/endpoint-settings.ts";
import { parseTopology } from "../../regions/topology.ts";
import { exampleEnv, exampleYaml } from "./example.ts";

const hash = "0123456789abcdef".repeat(4);

const parse = (endpoint: string): ReturnType<typeof parseTopology> =>
  parseTopology(`${exampleYaml}endpoint:\n${endpoint}`, exampleEnv);

const problemsOf = (endpoint: string): string[] =>
  (parse(endpoint).problems ?? []).map(({ line, column, message }) => `${line}:${column} ${message}`);

test("without it anyone may use the endpoint, which then listens on loopback only", () => {
  const { topology } = parseTopology(exampleYaml, exampleEnv) as { topology: { endpoint: unknown } };
  expect(topology.endpoint).toEqual(openEndpoint);
  expect(asksForToken(openEndpoint)).toBe(false);
});

test("all of it", () => {
  const parsed = parse(`  tls: { certificate: server.pem, key: server.key }
  requestsPerSecond: 50
  stopPauseMs: 0
  connectionsPerAddress: 20
  sharedAddresses: [10.0.0.7, 10.1.0.0/16, "2001:db8::/32"]
  tokens:
    - { name: backend, sha256: ${hash.toUpperCase()}, role: writer }
    - { name: report, sha256: ${hash.replace("0", "f")}, role: reader, tables: [public.workouts, '"A b".c'] }
  jwt: { jwks: "https://id.example/keys", issuer: "https://id.example", audience: coregent }
`);
  expect(parsed.problems).toBeUndefined();
  expect("topology" in parsed ? parsed.topology.endpoint : null).toEqual({
    tls: { certificate: "server.pem", key: "server.key" },
    anonymous: null,
    requestsPerSecond: 50,
    stopPauseMs: 0,
    connectionsPerAddress: 20,
    sharedAddresses: ["10.0.0.7", "10.1.0.0/16", "2001:db8::/32"],
    tokens: [
      { name: "backend", sha256: hash, role: "writer", tables: null },
      {
        name: "report",
        sha256: hash.replace("0", "f"),
        role: "reader",
        tables: ["public.workouts", "A b.c"],
      },
    ],
    jwt: {
      jwks: "https://id.example/keys",
      issuer: "https://id.example",
      audience: "coregent",
      roleClaim: "coregent_role",
      tablesClaim: "coregent_tables",
    },
  });
});

test("what is no address and no network is told", () => {
  for (const text of [
    "10.0.0",
    "10.0.0.256",
    "10.0.0.0/33",
    "10.0.0.0/8/8",
    "2001:db8::/129",
    "proxy",
    "1.2.3.4.",
  ])
    expect([text, problemsOf(`  sharedAddresses: ["${text}"]\n`)]).toEqual([
      text,
      [expect.stringContaining("must be an address such as 10.0.0.7")],
    ]);
});

test("who brings no token may do what is said of him", () => {
  const settings = (yaml: string): unknown => {
    const parsed = parse(yaml);
    return "topology" in parsed ? parsed.topology.endpoint.anonymous : parsed.problems;
  };
  expect(settings("  requestsPerSecond: 5\n")).toBe("writer");
  expect(settings("  tokens: []\n")).toBe(null);
  expect(settings("  tokens: []\n  anonymous: reader\n")).toBe("reader");
  expect(settings("  anonymous: none\n")).toBe(null);
});

describe("what is wrong is said, and no token is repeated", () => {
  test.each([
    [
      "the token instead of its hash",
      "  tokens: [{ name: a, sha256: s3cret, role: reader }]\n",
      "23:31 endpoint.tokens[0].sha256 must be the token's SHA-256 in 64 hexadecimal digits: coregent token makes both",
    ],
    [
      "an unknown role",
      `  tokens: [{ name: a, sha256: ${hash}, role: write }]\n`,
      '23:103 endpoint.tokens[0].role must be one of reader, writer, admin, not "write"; did you mean "writer"?',
    ],
    [
      "one token for two",
      `  tokens:\n    - { name: a, sha256: ${hash}, role: reader }\n    - { name: b, sha256: ${hash}, role: admin }\n`,
      "25:7 endpoint.tokens[1] repeats the name or the hash of another: each token needs its own",
    ],
    [
      "keys from anywhere",
      '  jwt: { jwks: "http://id.example/keys", issuer: a, audience: b }\n',
      "23:16 endpoint.jwt.jwks must be an https URL (http only on loopback): keys that anyone may replace prove nothing",
    ],
    ["half of TLS", "  tls: { certificate: server.pem }\n", '23:8 endpoint.tls has no "key"'],
    [
      "no rate",
      "  requestsPerSecond: 0\n",
      "23:22 endpoint.requestsPerSecond must be a whole number from 1 to 1000000",
    ],
  ])("%s", (_name, endpoint, problem) => {
    expect(problemsOf(endpoint)).toEqual([problem]);
  });
});
