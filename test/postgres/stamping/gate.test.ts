import { expect, test } from "vitest";
import { createDatabase, type TestDatabase } from "../../support/database.ts";
import { install, states, tombstones } from "../install/installed.ts";

const table = "CREATE TABLE t (id int PRIMARY KEY, v text)";

/** Names of the gate's sequence and of the tombstone relation, with schema. */
const named = async (db: TestDatabase): Promise<{ gate: string; tombstone: string }> => {
  const [row] = await db.query<{ tombstone: string }>(
    "SELECT tombstone FROM coregent.replicated_table WHERE name = 'public.t'",
  );
  const tombstone = row?.tombstone ?? "";
  return {
    gate: `coregent.${tombstone.replace("tombstone", "gate")}`,
    tombstone: `coregent.${tombstone}`,
  };
};

const isOpen = async (db: TestDatabase): Promise<boolean> => {
  const { gate } = await named(db);
  const [row] = await db.query<{ open: boolean }>(
    "SELECT pg_sequence_last_value($1::text::regclass) IS NULL AS open",
    [gate],
  );
  return row?.open === true;
};

const insertedUpon = async (db: TestDatabase, role?: string): Promise<void> => {
  if (role !== undefined) await db.query(`SET ROLE ${role}`);
  await db.query("INSERT INTO t VALUES (1, 'again'); RESET ROLE");
  const dead = (await tombstones(db, "public.t")).get("1");
  expect(dead).toBeDefined();
  expect((await states(db, "t")).get("1")?.prev).toBe(dead?.version);
};

test("the first row deleted opens the gate of inserts, and no abort closes it", async () => {
  await using db = await createDatabase();
  await db.query(table);
  await install(db);
  await db.query("INSERT INTO t VALUES (1); UPDATE t SET v = 'x'; DELETE FROM t WHERE id = 2");
  expect(await isOpen(db)).toBe(false);
  await db.query("BEGIN; DELETE FROM t; ROLLBACK");
  expect(await isOpen(db)).toBe(true);
  await db.query("DELETE FROM t");
  await insertedUpon(db);
});

test.each([
  [
    "a merge",
    "SET session_replication_role = replica; INSERT INTO {tombstone} (id, cg_version) VALUES (1, 5127)",
  ],
  ["a change of key", "INSERT INTO t VALUES (1); UPDATE t SET id = 2"],
  ["TRUNCATE", "INSERT INTO t VALUES (1); TRUNCATE t"],
])("%s opens it too", async (_, sql) => {
  await using db = await createDatabase();
  await db.query(table);
  await install(db);
  const { tombstone } = await named(db);
  await db.query(sql.replace("{tombstone}", tombstone));
  await db.query("RESET session_replication_role");
  expect(await isOpen(db)).toBe(true);
  await insertedUpon(db);
});

/** As versions before this one left a table: an AFTER trigger without a condition, and a gate that is open where it has a value. */
const asBefore = async (db: TestDatabase, { open }: { readonly open: boolean }): Promise<void> => {
  const { gate, tombstone } = await named(db);
  const former = gate.replace("gate_", "entombed_");
  const [fn] = await db.query<{ name: string }>(
    `SELECT tgfoid::regproc::text AS name FROM pg_trigger
      WHERE tgrelid = 't'::regclass AND tgname = '~coregent_inserted'`,
  );
  await db.query(`DROP TRIGGER "~coregent_inserted" ON t; DROP TRIGGER "~coregent_entombed" ON ${tombstone};
    DROP SEQUENCE ${gate}; CREATE SEQUENCE ${former};
    CREATE TRIGGER "~coregent_inserted" AFTER INSERT ON t REFERENCING NEW TABLE AS inserted
      FOR EACH STATEMENT EXECUTE FUNCTION ${fn?.name}()`);
  if (open) await db.query(`SELECT nextval('${former}')`);
};

const missesGate = [{ name: "public.t", change: "repaired", details: ["gate of inserts"] }];

test("an installation from before this gate, or one that lost it, is brought up to date with its tombstones", async () => {
  await using db = await createDatabase();
  await db.query(table);
  await install(db);
  await db.query("INSERT INTO t VALUES (1); DELETE FROM t");
  const { tombstone } = await named(db);
  await asBefore(db, { open: true });
  expect((await install(db)).tables).toEqual(missesGate);
  expect((await install(db)).tables).toEqual([]);
  expect(await isOpen(db)).toBe(true);
  await insertedUpon(db);
  await db.query(`ALTER TABLE ${tombstone} DISABLE TRIGGER "~coregent_entombed"`);
  expect((await install(db)).tables).toEqual(missesGate);
  expect(await isOpen(db)).toBe(true);
  expect(await db.query("SELECT FROM pg_class WHERE relname LIKE 'entombed%'")).toEqual([]);
});

test("one that has no tombstones gets a closed gate, whatever the former one was", async () => {
  for (const open of [false, true]) {
    await using db = await createDatabase();
    await db.query(table);
    await install(db);
    await asBefore(db, { open });
    expect((await install(db)).tables).toEqual(missesGate);
    expect(await isOpen(db)).toBe(false);
    await db.query("INSERT INTO t VALUES (1); DELETE FROM t");
    await insertedUpon(db);
  }
});

test("a closed gate is opened for tombstones that came while nothing opened it", async () => {
  await using db = await createDatabase();
  await db.query(table);
  await install(db);
  const { tombstone } = await named(db);
  await db.query(`ALTER TABLE ${tombstone} DISABLE TRIGGER "~coregent_entombed"`);
  await db.query("INSERT INTO t VALUES (1); DELETE FROM t");
  expect(await isOpen(db)).toBe(false);
  expect((await install(db)).tables).toEqual(missesGate);
  expect(await isOpen(db)).toBe(true);
  await insertedUpon(db);
});

/** Where a trigger serves the statement, and where it serves each row. */
const shapes = [
  ["plain", table],
  [
    "partitioned",
    `${table} PARTITION BY RANGE (id); CREATE TABLE t_all PARTITION OF t FOR VALUES FROM (0) TO (99)`,
  ],
] as const;

test.each(shapes)(
  "a role that may not read the gate finds it open, and none can close it (%s)",
  async (_, sql) => {
    await using db = await createDatabase();
    await db.query(sql);
    await install(db);
    const { gate } = await named(db);
    const role = `writer_${db.name}`;
    await db.query(`CREATE ROLE ${role}; GRANT ALL ON t TO ${role}; INSERT INTO t VALUES (1); DELETE FROM t`);
    try {
      for (const close of [`nextval('${gate}')`, `setval('${gate}', 1)`]) {
        await expect(db.query(`SET ROLE ${role}; SELECT ${close}`)).rejects.toMatchObject({ code: "42501" });
        await db.query("RESET ROLE");
      }
      await db.query(`REVOKE ALL ON SEQUENCE ${gate} FROM PUBLIC`);
      await insertedUpon(db, role);
      await db.query("INSERT INTO t VALUES (2); DELETE FROM t");
      await insertedUpon(db);
      expect((await install(db)).tables).toEqual(missesGate);
    } finally {
      await db.query(`RESET ROLE; DROP OWNED BY ${role}; DROP ROLE ${role}`);
    }
  },
);

test("who writes a tombstone opens the gate or is refused, also where the gate may not be read", async () => {
  await using db = await createDatabase();
  await db.query(table);
  await install(db);
  const { gate, tombstone } = await named(db);
  const role = `merger_${db.name}`;
  await db.query(`REVOKE ALL ON SEQUENCE ${gate} FROM PUBLIC; CREATE ROLE ${role};
    GRANT USAGE ON SCHEMA coregent TO ${role}; GRANT ALL ON ${tombstone} TO ${role}`);
  try {
    const entombed = `INSERT INTO ${tombstone} (id, cg_version) VALUES (1, 5127)`;
    await expect(db.query(`SET ROLE ${role}; ${entombed}`)).rejects.toMatchObject({ code: "42501" });
    await db.query("RESET ROLE");
    expect(await tombstones(db, "public.t")).toEqual(new Map());
    await db.query(`GRANT UPDATE ON SEQUENCE ${gate} TO ${role}; SET ROLE ${role}; ${entombed}; RESET ROLE`);
    expect(await isOpen(db)).toBe(true);
  } finally {
    await db.query(`RESET ROLE; DROP OWNED BY ${role}; DROP ROLE ${role}`);
  }
});

test.each(shapes)("a closed gate leaves the AFTER trigger out (%s)", async (_, sql) => {
  await using db = await createDatabase();
  await db.query(sql);
  await install(db);
  const calls = async (): Promise<number> => {
    const [row] = await db.query<{ calls: string }>(
      `SELECT coalesce(sum(pg_stat_get_function_calls(oid) + coalesce(pg_stat_get_xact_function_calls(oid), 0)), 0) AS calls
         FROM pg_proc WHERE proname LIKE 'inserted\\_%'`,
    );
    return Number(row?.calls);
  };
  await db.query("SET track_functions = 'all'; INSERT INTO t VALUES (1), (2)");
  await db.query("SELECT pg_stat_force_next_flush()");
  expect(await calls()).toBe(0);
  await db.query("DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1)");
  await db.query("SELECT pg_stat_force_next_flush()");
  expect(await calls()).toBe(1);
});

test.each(["read committed", "serializable"])(
  "stamping anew leaves no setting behind (%s)",
  async (isolation) => {
    await using db = await createDatabase();
    await db.query(table);
    await install(db);
    await db.query("INSERT INTO t VALUES (1), (2); DELETE FROM t");
    const names = [
      "search_path",
      "enable_seqscan",
      "enable_hashjoin",
      "enable_mergejoin",
      "session_replication_role",
    ];
    const settings = (): Promise<unknown> =>
      db.query(`SELECT ${names.map((name) => `current_setting('${name}') AS ${name}`).join(", ")}`);
    await db.query("SET search_path = public, pg_temp; SET enable_hashjoin = off");
    const ofSession = await settings();
    await db.query(
      `BEGIN ISOLATION LEVEL ${isolation}; SET LOCAL search_path = public; SET LOCAL enable_seqscan = off`,
    );
    const ofTransaction = await settings();
    for (const rows of ["(3)", "(1), (4)"]) {
      await db.query(`INSERT INTO t VALUES ${rows}`);
      expect(await settings()).toEqual(ofTransaction);
    }
    await db.query("SAVEPOINT s; SET LOCAL enable_hashjoin = on; INSERT INTO t VALUES (2); ROLLBACK TO s");
    expect(await settings()).toEqual(ofTransaction);
    await db.query("INSERT INTO t VALUES (2); COMMIT");
    expect(await settings()).toEqual(ofSession);
    expect((await states(db, "t")).size).toBe(4);
  },
);

/** How many rows of `relation` this session has read and not reported yet: in a transaction it reports nothing. */
const rowsRead = async (db: TestDatabase, relation: string): Promise<number> => {
  const [done] = await db.query<{ rows: number }>(
    "SELECT (seq_tup_read + idx_tup_fetch)::int AS rows FROM pg_stat_xact_all_tables WHERE relid = $1::text::regclass",
    [relation],
  );
  return done?.rows ?? Number.NaN;
};

test("a look for tombstones that was planned when there were few reads one of many afterwards", async () => {
  await using db = await createDatabase();
  await db.query(table);
  await install(db);
  const { tombstone } = await named(db);
  await db.query("INSERT INTO t SELECT generate_series(1, 5); DELETE FROM t");
  await db.query(`VACUUM ANALYZE ${tombstone}`);
  await db.query("INSERT INTO t SELECT generate_series(1000, 3000); DELETE FROM t WHERE id < 2000");
  await db.query("BEGIN");
  const before = await rowsRead(db, tombstone);
  await db.query("INSERT INTO t VALUES (3001)");
  expect(await rowsRead(db, tombstone)).toBe(before);
  await db.query("ROLLBACK");
});

test("so does the look for live rows of a DELETE", async () => {
  await using db = await createDatabase();
  await db.query(table);
  await install(db);
  await db.query("INSERT INTO t SELECT generate_series(1, 2000); DELETE FROM t WHERE id < 1996");
  await db.query("VACUUM ANALYZE t");
  await db.query(
    "INSERT INTO t SELECT generate_series(3000, 4999); DELETE FROM t WHERE id BETWEEN 3000 AND 3999",
  );
  // For the DELETE itself: it is the only one to read the row then.
  await db.query("BEGIN; SET LOCAL enable_seqscan = off");
  const before = await rowsRead(db, "t");
  await db.query("DELETE FROM t WHERE id = 4500");
  expect(await rowsRead(db, "t")).toBe(before + 1);
  await db.query("ROLLBACK");
});
