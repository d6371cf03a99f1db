import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { checkRegion, type Finding } from "../../src/postgres/check.ts";
import { regionOf, topologyOf } from "./check-fixture.ts";
import { createDatabase, uniqueName, type TestDatabase } from "../support/database.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(async () => {
  await database[Symbol.asyncDispose]();
});

/** The findings about the tables of a schema made by `sql` (in which the schema is the search path). */
const checkSchema = async (sql: string, tables = ""): Promise<Finding[]> => {
  const schema = uniqueName("s");
  const client = await database.connect();
  await client.query(`CREATE SCHEMA ${schema}; SET search_path = ${schema}, public; ${sql}`);
  const topology = topologyOf(
    [database.url, "postgres://u@nowhere/x"],
    `schemas: [${schema}]\n${tables.replaceAll("SCHEMA", schema)}`,
  );
  const region = regionOf(topology);
  const findings = await checkRegion(client, region, topology);
  const replaced = findings.map((finding) => ({
    ...finding,
    object: finding.object.replace(`${schema}.`, ""),
  }));
  // The remedies are to be run as they are, where they are SQL: see the tests of `remedy`.
  return replaced.filter((finding) => finding.object !== schema);
};

const severityOf = (findings: readonly Finding[], code: string, object?: string): string | undefined =>
  findings.find((one) => one.code === code && (object === undefined || one.object === object))?.severity;

/** Code, DDL, the object named, severity. */
const refusals: readonly (readonly [string, string, string, "critical" | "warning"])[] = [
  ["no_primary_key", "CREATE TABLE t (a int)", "t", "warning"],
  ["key_not_bytewise", "CREATE TABLE t (id numeric PRIMARY KEY)", "t.id", "critical"],
  ["key_not_bytewise", "CREATE TABLE t (id float8 PRIMARY KEY)", "t.id", "critical"],
  ["key_not_bytewise", "CREATE TABLE t (id jsonb PRIMARY KEY)", "t.id", "critical"],
  ["key_not_bytewise", "CREATE TABLE t (id interval PRIMARY KEY)", "t.id", "critical"],
  ["key_not_bytewise", "CREATE TABLE t (id int[] PRIMARY KEY)", "t.id", "critical"],
  ["key_not_bytewise", "CREATE TABLE t (a int, b numeric(9,2), PRIMARY KEY (a, b))", "t.b", "critical"],
  ["key_not_bytewise", "CREATE TABLE t (id bpchar PRIMARY KEY)", "t.id", "critical"],
  [
    "key_not_bytewise",
    "CREATE COLLATION nd (provider = icu, locale = 'und-u-ks-level2', deterministic = false); CREATE TABLE t (id text COLLATE nd PRIMARY KEY)",
    "t.id",
    "critical",
  ],
  [
    "deferrable_key",
    "CREATE TABLE t (id int, CONSTRAINT k PRIMARY KEY (id) DEFERRABLE)",
    "t (k)",
    "critical",
  ],
  [
    "deferrable_unique",
    "CREATE TABLE t (id int PRIMARY KEY, a int, CONSTRAINT u UNIQUE (a) DEFERRABLE INITIALLY DEFERRED)",
    "t (u)",
    "critical",
  ],
  [
    "unique_after_the_fact",
    "CREATE TABLE t (id int PRIMARY KEY, a int CONSTRAINT u UNIQUE)",
    "t (u)",
    "warning",
  ],
  [
    "replica_identity_nothing",
    "CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t REPLICA IDENTITY NOTHING",
    "t",
    "critical",
  ],
  [
    "identity_always",
    "CREATE TABLE t (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY)",
    "t.n",
    "critical",
  ],
  [
    "generated_key",
    "CREATE TABLE t (a int, id int GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY)",
    "t.id",
    "critical",
  ],
  ["unlogged", "CREATE UNLOGGED TABLE t (id int PRIMARY KEY)", "t", "critical"],
  [
    "rule",
    "CREATE TABLE t (id int PRIMARY KEY); CREATE RULE r AS ON DELETE TO t DO INSTEAD NOTHING",
    "t (r)",
    "critical",
  ],
  [
    "trigger_on_merge",
    `CREATE TABLE t (id int PRIMARY KEY);
     CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
     CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f(); ALTER TABLE t ENABLE ALWAYS TRIGGER g`,
    "t (g)",
    "critical",
  ],
  [
    "trigger_on_merge",
    `CREATE TABLE t (id int PRIMARY KEY);
     CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
     CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f(); ALTER TABLE t ENABLE REPLICA TRIGGER g`,
    "t (g)",
    "critical",
  ],
  [
    "trigger_clash",
    `CREATE TABLE t (id int PRIMARY KEY);
     CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
     CREATE TRIGGER "~coregent_insert" BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()`,
    "t (~coregent_insert)",
    "critical",
  ],
  [
    "trigger_order",
    `CREATE TABLE t (id int PRIMARY KEY);
     CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
     CREATE TRIGGER "~last" BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()`,
    "t (~last)",
    "warning",
  ],
  [
    "inheritance",
    "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE t (PRIMARY KEY (id)) INHERITS (p)",
    "t",
    "critical",
  ],
  ["inheritance", "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE t () INHERITS (p)", "p", "critical"],
  ["column_clash", "CREATE TABLE t (id int PRIMARY KEY, cg_version bigint)", "t.cg_version", "critical"],
  ["column_clash", "CREATE TABLE t (id int PRIMARY KEY, cg_merge jsonb)", "t.cg_merge", "critical"],
  ["column_clash", "CREATE TABLE t (cg_index int PRIMARY KEY)", "t.cg_index", "critical"],
  ["colliding_sequence", "CREATE TABLE t (id serial PRIMARY KEY)", "t.id", "critical"],
  [
    "colliding_sequence",
    "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)",
    "t.id",
    "critical",
  ],
  ["colliding_sequence", "CREATE TABLE t (a text, id serial, PRIMARY KEY (a, id))", "t.id", "warning"],
  ["oid_column", "CREATE TABLE t (id int PRIMARY KEY, o oid)", "t.o", "warning"],
  [
    "foreign_key_outside",
    "CREATE TABLE p (a int CONSTRAINT u UNIQUE); CREATE TABLE t (id int PRIMARY KEY, a int CONSTRAINT f REFERENCES p (a))",
    "t (f)",
    "warning",
  ],
  [
    "unlogged",
    `CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id);
     CREATE UNLOGGED TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (9)`,
    "t1",
    "critical",
  ],
  [
    "replica_identity_nothing",
    `CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id);
     CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (9); ALTER TABLE t1 REPLICA IDENTITY NOTHING`,
    "t1",
    "critical",
  ],
  [
    "row_type_used",
    "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (a int, x t)",
    "t (SCHEMA.u.x)",
    "critical",
  ],
  [
    "row_type_used",
    "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY, x t[]) PARTITION BY HASH (id); CREATE TABLE u1 PARTITION OF u FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
    "t (SCHEMA.u.x)",
    "critical",
  ],
  [
    "row_type_used",
    "CREATE TABLE t (id int PRIMARY KEY); CREATE DOMAIN d AS t CHECK ((VALUE).id > 0); CREATE TABLE u (x d[])",
    "t (SCHEMA.u.x)",
    "critical",
  ],
  [
    "row_type_used",
    "CREATE TABLE t (id int PRIMARY KEY); CREATE TYPE r AS RANGE (SUBTYPE = t, SUBTYPE_OPCLASS = record_ops); CREATE TABLE u (x r)",
    "t (SCHEMA.u.x)",
    "critical",
  ],
  [
    "row_type_used",
    "CREATE TABLE t (id int PRIMARY KEY); CREATE TYPE r AS RANGE (SUBTYPE = t, SUBTYPE_OPCLASS = record_ops, MULTIRANGE_TYPE_NAME = m); CREATE TABLE u (x m)",
    "t (SCHEMA.u.x)",
    "critical",
  ],
  [
    "row_type_used",
    "CREATE TABLE t (id int PRIMARY KEY); CREATE TYPE p AS (a int, b t); CREATE TABLE u (x p)",
    "t (SCHEMA.u.x)",
    "critical",
  ],
  [
    "row_type_used",
    "CREATE TABLE t (id int PRIMARY KEY); CREATE VIEW v AS SELECT t AS row FROM t; CREATE TABLE u (x v)",
    "t (SCHEMA.u.x)",
    "critical",
  ],
  [
    "row_type_used",
    "CREATE TABLE t (id int PRIMARY KEY); CREATE MATERIALIZED VIEW u AS SELECT t AS x FROM t",
    "t (SCHEMA.u.x)",
    "critical",
  ],
  [
    "row_type_used",
    `CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id);
     CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (9); CREATE TABLE u (x t1)`,
    "t (SCHEMA.u.x)",
    "critical",
  ],
  ["typed_table", "CREATE TYPE y AS (id int); CREATE TABLE t OF y (PRIMARY KEY (id))", "t", "critical"],
];

describe("check names what is in the way of replicating a table", () => {
  test.each(refusals)("%s: %s", async (code, sql, object, severity) => {
    const findings = await checkSchema(sql);
    const found = findings.find(
      (one) => one.code === code && one.object.replace(/\(s_\w+\./, "(SCHEMA.") === object,
    );
    expect(found, JSON.stringify(findings, null, 1)).toBeDefined();
    expect(found?.severity).toBe(severity);
    expect(found?.remedy).not.toBe("");
    if (severity === "critical")
      expect(severityOf(findings, "table", object.split(/[ .]/)[0])).toBeUndefined();
  });

  const accepted = [
    "uuid",
    "text",
    "varchar(10)",
    "char(26)",
    "int",
    "bigint",
    "smallint",
    "date",
    "timestamp",
    "timestamptz",
    "bytea",
    "bool",
    "mood",
    "key_domain",
    "inet",
  ];
  test.each(accepted)("a key of type %s is fine", async (type) => {
    const findings = await checkSchema(
      `CREATE TYPE mood AS ENUM ('a'); CREATE DOMAIN key_domain AS text CHECK (VALUE <> '');
       CREATE TABLE t (id ${type} PRIMARY KEY, n numeric, f float8[], r int4range, j jsonb)`,
    );
    expect(findings.filter((one) => one.severity !== "ok" && one.object.startsWith("t"))).toEqual([]);
    expect(severityOf(findings, "table", "t")).toBe("ok");
  });

  test("a table that is configured and has no primary key is critical", async () => {
    const findings = await checkSchema("CREATE TABLE t (a int)", "tables:\n  - { name: SCHEMA.t }\n");
    expect(severityOf(findings, "no_primary_key", "t")).toBe("critical");
  });

  test("owner columns: missing, of a type that names no region, generated", async () => {
    const tables = "tables:\n  - { name: SCHEMA.t, owner: home }\n";
    const missing = await checkSchema("CREATE TABLE t (id int PRIMARY KEY)", tables);
    expect(severityOf(missing, "owner_column_missing", "t.home")).toBe("critical");
    const typed = await checkSchema("CREATE TABLE t (id int PRIMARY KEY, home int)", tables);
    expect(severityOf(typed, "owner_column_type", "t.home")).toBe("critical");
    const generated = await checkSchema(
      "CREATE TABLE t (id int PRIMARY KEY, home text GENERATED ALWAYS AS ('x') STORED)",
      tables,
    );
    expect(severityOf(generated, "owner_column_generated", "t.home")).toBe("critical");
    const right = await checkSchema(
      "CREATE DOMAIN d AS text; CREATE TABLE t (id int PRIMARY KEY, home d)",
      tables,
    );
    expect(severityOf(right, "table", "t")).toBe("ok");
  });

  test("a foreign key between replicated tables is a note, not an obstacle", async () => {
    const findings = await checkSchema(
      "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY, p int CONSTRAINT f REFERENCES p)",
    );
    expect(severityOf(findings, "foreign_key", "t (f)")).toBe("ok");
  });

  test("the remedies that are SQL remove their finding, run as they are printed", async () => {
    const mended = new Set([
      "deferrable_key",
      "deferrable_unique",
      "replica_identity_nothing",
      "identity_always",
      "generated_key",
      "unlogged",
      "rule",
      "trigger_on_merge",
      "trigger_clash",
      "column_clash",
      "colliding_sequence",
      "no_primary_key",
      "row_type_used",
      "typed_table",
    ]);
    for (const [code, sql] of refusals.filter(([name]) => mended.has(name))) {
      const schema = uniqueName("s");
      const client = await database.connect();
      await client.query(`CREATE SCHEMA ${schema}; SET search_path = ${schema}, public; ${sql}`);
      const topology = topologyOf([database.url, "postgres://u@nowhere/x"], `schemas: [${schema}]`);
      const region = regionOf(topology);
      const before = (await checkRegion(client, region, topology)).filter((one) => one.code === code);
      expect(before.length, sql).toBeGreaterThan(0);
      for (const finding of before) await client.query(finding.remedy);
      const after = (await checkRegion(client, region, topology)).filter((one) => one.code === code);
      expect(after, before.map((one) => one.remedy).join("\n")).toEqual([]);
    }
  });

  /** What does not store rows of t, as PostgreSQL sees it. */
  const harmless = [
    "CREATE TABLE t (id int PRIMARY KEY); CREATE VIEW v AS SELECT t AS x FROM t",
    "CREATE TABLE t (id int PRIMARY KEY); CREATE TYPE p AS (b t); CREATE DOMAIN d AS t",
    "CREATE TABLE t (id int PRIMARY KEY); CREATE FUNCTION f(t) RETURNS t LANGUAGE sql AS 'SELECT $1'",
    "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (x t); ALTER TABLE u DROP COLUMN x",
    "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY HASH (id); CREATE TABLE u (x t)",
  ];

  test.each([16, 17, 18] as const)("as ALTER TABLE of PostgreSQL %i, so check", async (version) => {
    await using other = await createDatabase({ version });
    const refused = refusals.filter(([code]) => code === "row_type_used" || code === "typed_table");
    for (const sql of [...refused.map(([, ddl]) => ddl), ...harmless]) {
      const schema = uniqueName("s");
      const client = await other.connect();
      await client.query(`CREATE SCHEMA ${schema}; SET search_path = ${schema}; ${sql}`);
      const topology = topologyOf([other.url, "postgres://u@nowhere/x"], `schemas: [${schema}]`);
      const findings = await checkRegion(client, regionOf(topology), topology);
      const says = findings.some(({ code }) => code === "row_type_used" || code === "typed_table");
      const added = await client.query("ALTER TABLE t ADD cg_prev bigint NOT NULL DEFAULT 0").then(
        () => true,
        () => false,
      );
      expect({ sql, refused: says }).toEqual({ sql, refused: !added });
      await client.end();
    }
  });

  test("names with quotes, dots and capitals", async () => {
    const findings = await checkSchema(
      `CREATE TABLE "We""ird.Name" ("Id" numeric PRIMARY KEY, CONSTRAINT "U x" UNIQUE ("Id"))`,
    );
    expect(severityOf(findings, "key_not_bytewise", 'We"ird.Name.Id')).toBe("critical");
  });
});
