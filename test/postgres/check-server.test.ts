import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startServer, type Server } from "../../src/embedded/server.ts";
import { checkCluster, checkRegion, type Finding } from "../../src/postgres/check.ts";
import { connect } from "../../src/postgres/client.ts";
import { initCluster } from "../../src/postgres/init.ts";
import { uninstallCluster } from "../../src/postgres/uninstall.ts";
import {
  createDatabase,
  dropOrigins,
  serverUrl,
  uniqueName,
  type TestDatabase,
} from "../support/database.ts";
import { regionOf, topologyOf } from "./check-fixture.ts";

const troubles = (findings: readonly Finding[], region?: string): string[] =>
  findings
    .filter((one) => one.severity !== "ok" && (region === undefined || one.region === region))
    .map((one) => `${one.severity} ${one.code}`);

/** Runs `work` as a login role with no rights, which is dropped with all it owns. */
const withRole = async (
  database: TestDatabase,
  work: (role: string, url: string) => Promise<void>,
): Promise<void> => {
  const role = uniqueName("role");
  const url = new URL(database.url);
  url.username = role;
  url.password = "secret";
  await database.query(`CREATE ROLE ${role} LOGIN PASSWORD 'secret'`);
  try {
    await work(role, url.href);
  } finally {
    await database.query(`DROP OWNED BY ${role} CASCADE; DROP ROLE ${role}`);
  }
};

describe("settings", () => {
  let folder: string;
  let server: Server | undefined;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "coregent-check-"));
    await chmod(folder, 0o755);
    server = await startServer({
      dataDir: join(folder, "data"),
      version: 18,
      fsync: false,
      removeWithUs: true,
      settings: {
        wal_level: "replica",
        max_replication_slots: "1",
        max_wal_senders: "1",
        max_active_replication_origins: "1",
        idle_replication_slot_timeout: "1min",
        default_transaction_read_only: "on",
      },
    });
  });
  afterAll(async () => {
    await server?.stop("immediate");
    await rm(folder, { recursive: true, force: true });
  });

  test("each that is too small for the peers is named, with the number needed", async () => {
    const url = server?.url() ?? "";
    const topology = topologyOf([url, "postgres://u@nowhere/a", "postgres://u@nowhere/b"]);
    const client = await connect(url, { applicationName: "test" });
    const findings = await checkRegion(client, regionOf(topology), topology);
    await client.end();
    expect(troubles(findings).toSorted()).toEqual([
      "critical max_active_replication_origins",
      "critical max_replication_slots",
      "critical max_wal_senders",
      "critical read_only",
      "critical wal_level",
      "warning idle_replication_slot_timeout",
    ]);
    expect(findings.find((one) => one.code === "max_wal_senders")?.message).toContain("2 senders");
    expect(findings.find((one) => one.code === "wal_level")?.remedy).toContain("SET wal_level = 'logical'");
  });
});

describe("rights", () => {
  let database: TestDatabase;
  let other: TestDatabase;
  beforeAll(async () => {
    [database, other] = await Promise.all([createDatabase(), createDatabase()]);
  });
  afterAll(async () => {
    await Promise.all([database[Symbol.asyncDispose](), other[Symbol.asyncDispose]()]);
  });

  test("a role with no rights passes after the printed grants are run, through init and back", async () => {
    const owner = uniqueName("owner");
    await database.query(
      `CREATE ROLE ${owner};
       CREATE SCHEMA app; GRANT USAGE, CREATE ON SCHEMA app TO ${owner};
       SET ROLE ${owner}; CREATE TABLE app.of_owner (id uuid PRIMARY KEY, note text); RESET ROLE;
       CREATE TABLE app.of_superuser (id uuid PRIMARY KEY, note text);
       CREATE TABLE app.parts (id uuid PRIMARY KEY) PARTITION BY HASH (id);
       CREATE TABLE app.part PARTITION OF app.parts FOR VALUES WITH (MODULUS 1, REMAINDER 0);
       ALTER TABLE app.parts OWNER TO ${owner};
       INSERT INTO app.of_owner VALUES (gen_random_uuid(), 'x');
       REVOKE USAGE ON SCHEMA app FROM PUBLIC`,
    );
    await other.query(
      `CREATE SCHEMA app; CREATE TABLE app.of_owner (id uuid PRIMARY KEY, note text);
       CREATE TABLE app.of_superuser (id uuid PRIMARY KEY, note text); CREATE TABLE app.parts (id uuid PRIMARY KEY)`,
    );
    await withRole(database, async (_role, url) => {
      const topology = topologyOf([url, other.url], "schemas: [app]");
      const before = await checkCluster(topology);
      expect([...new Set(troubles(before, "r1"))].toSorted()).toEqual([
        "critical role_create",
        "critical role_replication",
        "critical role_schema_usage",
        "critical role_session_replication_role",
        "critical role_table_owner",
        "warning role_origins",
        "warning role_restart_points",
      ]);
      // Refused as a whole: the other region, where all is well, is not touched either.
      const refused = await initCluster(topology);
      expect(refused.regions).toEqual([]);
      expect(await other.query("SELECT FROM pg_namespace WHERE nspname = 'coregent'")).toEqual([]);

      for (const finding of before.filter((one) => one.region === "r1" && one.severity !== "ok")) {
        await database.query(finding.remedy);
      }
      expect(troubles(await checkCluster(topology))).toEqual([]);
      const report = await initCluster(topology);
      expect(report.regions.map((one) => one.region)).toEqual(["r1", "r2"]);
      expect(troubles(await checkCluster(topology))).toEqual([]);
      expect(await database.query("SELECT cg_version > 0 AS stamped FROM app.of_owner")).toEqual([
        { stamped: true },
      ]);
      await uninstallCluster(topology, {});
      await dropOrigins(topology.cluster);
    });
    await database.query(`DROP OWNED BY ${owner} CASCADE; DROP ROLE ${owner}`);
  });

  test("without origins and restart points there are warnings only", async () => {
    await withRole(database, async (role, url) => {
      await database.query(
        `ALTER ROLE ${role} REPLICATION; GRANT SET ON PARAMETER session_replication_role TO ${role};
         GRANT CREATE ON DATABASE ${database.name} TO ${role}`,
      );
      const topology = topologyOf([url, other.url], "schemas: [nothing]");
      expect(troubles(await checkCluster(topology), "r1")).toEqual([
        "warning role_origins",
        "warning role_restart_points",
      ]);
    });
  });

  test("row security: forced on the owner, or on a role without the owner's rights", async () => {
    await withRole(database, async (role, url) => {
      await database.query(
        `CREATE SCHEMA rls; GRANT USAGE ON SCHEMA rls TO ${role};
         CREATE TABLE rls.own (id int PRIMARY KEY); ALTER TABLE rls.own ENABLE ROW LEVEL SECURITY;
         CREATE TABLE rls.forced (id int PRIMARY KEY); ALTER TABLE rls.forced ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
         CREATE TABLE rls.others (id int PRIMARY KEY); ALTER TABLE rls.others ENABLE ROW LEVEL SECURITY;
         ALTER TABLE rls.own OWNER TO ${role}; ALTER TABLE rls.forced OWNER TO ${role}`,
      );
      const topology = topologyOf([url, other.url], "schemas: [rls]");
      const hidden = async (): Promise<string[]> =>
        (await checkCluster(topology)).filter((one) => one.code === "row_security").map((one) => one.object);
      expect(await hidden()).toEqual(["rls.forced", "rls.others"]);
      await database.query(`ALTER ROLE ${role} BYPASSRLS`);
      expect(await hidden()).toEqual([]);
      await database.query("DROP SCHEMA rls CASCADE");
    });
  });

  test("a login that is refused, and a region that cannot be reached", async () => {
    const wrong = new URL(database.url);
    wrong.pathname = "/no_such_database";
    const topology = topologyOf([wrong.href, "postgres://u@127.0.0.1:1/x"]);
    expect(troubles(await checkCluster(topology))).toEqual([
      "critical login_refused",
      "critical unreachable",
    ]);
    expect(JSON.stringify(await checkCluster(topology))).not.toContain(wrong.password || "no password");
  });
});

describe("names that others have taken", () => {
  test("a schema and a publication which Coregent did not make; an encoding; a slot of another database", async () => {
    await using database = await createDatabase();
    await using other = await createDatabase();
    const topology = topologyOf([database.url, other.url]);
    const clean = (await checkCluster(topology)).filter((one) => one.severity !== "ok");
    expect(clean).toEqual([]);
    const slot = `coregent_${topology.cluster}_1_2`;
    await other.query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", [slot]);
    await database.query("CREATE SCHEMA coregent; CREATE PUBLICATION coregent");
    expect(troubles(await checkCluster(topology), "r1")).toEqual([
      "critical schema_clash",
      "critical publication_clash",
      "critical slot_clash",
    ]);
    await other.query("SELECT pg_drop_replication_slot($1)", [slot]);
  });

  test("an encoding that cannot hold every text", async () => {
    const url = new URL(await serverUrl());
    const name = uniqueName("latin");
    const client = await connect(url.href, { applicationName: "test" });
    await client.query(`CREATE DATABASE ${name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0`);
    try {
      url.pathname = `/${name}`;
      const findings = await checkCluster(topologyOf([url.href]));
      expect(troubles(findings)).toEqual(["critical encoding"]);
    } finally {
      await client.query(`DROP DATABASE ${name} WITH (FORCE)`);
      await client.end();
    }
  });

  test.each([16, 17] as const)("PostgreSQL %i passes", async (version) => {
    await using database = await createDatabase({ version });
    await database.query("CREATE TABLE t (id uuid PRIMARY KEY, a text)");
    const findings = await checkCluster(topologyOf([database.url]));
    expect(troubles(findings)).toEqual([]);
    expect(findings.find((one) => one.code === "server_version")?.object).toBe(`PostgreSQL ${version}`);
  });
});
