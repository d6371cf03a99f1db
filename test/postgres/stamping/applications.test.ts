import { expect, test } from "vitest";
import { createDatabase, uniqueName } from "../../support/database.ts";
import { install, owned, states, tombstones } from "../install/installed.ts";

test("a role without rights on coregent writes; it reads no tombstones and borrows no trigger function", async () => {
  await using db = await createDatabase();
  await db.query("CREATE TABLE t (id text PRIMARY KEY, v text)");
  await install(db);
  const role = uniqueName("app");
  await db.query(`CREATE ROLE ${role}; GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON t TO ${role};
    GRANT CREATE ON SCHEMA public TO ${role}`);
  // Objects of this role before pg_catalog must not become part of our functions.
  await db.query(`SET ROLE ${role}; SET search_path = public, pg_catalog;
    CREATE FUNCTION public.greatest_of(bigint, int) RETURNS bigint LANGUAGE sql RETURN 0;
    CREATE OPERATOR public.>> (LEFTARG = bigint, RIGHTARG = int, FUNCTION = public.greatest_of)`);
  await db.query(`INSERT INTO t VALUES (coregent.ulid(), 'x'), ('a', 'y'); UPDATE t SET v = 'z' WHERE id = 'a';
    UPDATE t SET id = 'b' WHERE id = 'a'; DELETE FROM t WHERE id = 'b'; INSERT INTO t VALUES ('b'); TRUNCATE t`);
  const [dead] = await db.query<{ name: string }>(
    "SELECT relname AS name FROM pg_class WHERE relname LIKE 'tombstone_t_%' AND relkind = 'r'",
  );
  await expect(db.query(`SELECT * FROM coregent.${dead?.name}`)).rejects.toMatchObject({ code: "42501" });
  await db.query("CREATE TABLE mine (id text PRIMARY KEY)");
  const fn = dead?.name.replace("tombstone", "deleted");
  await expect(
    db.query(`CREATE TRIGGER x AFTER DELETE ON mine REFERENCING OLD TABLE AS gone FOR EACH STATEMENT
      EXECUTE FUNCTION coregent.${fn}()`),
  ).rejects.toMatchObject({ code: "42501" });
  await db.query(`RESET ROLE; RESET search_path`);
  expect((await tombstones(db, "public.t")).size).toBe(3);
  await db.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
});

/** Everything of pg_catalog that stamping could mean by a bare name, again in schema `evil`; to call it is an error. */
const traps = `
CREATE SCHEMA evil; CREATE TYPE evil.text AS (x int); CREATE TYPE evil.int8 AS (x int); CREATE TYPE evil.regclass AS (x int);
DO $$
DECLARE
  o record;
  types regtype[] := '{text,int8,int4,int2,bool,float8,numeric,timestamptz,anyarray,record}';
BEGIN
  FOR o IN SELECT oid, oprname, oprleft::regtype AS l, oprright::regtype AS r, oprresult::regtype AS result FROM pg_operator
            WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprleft = ANY (types) AND oprright = ANY (types)
              AND oprresult <> 'anyarray'::regtype LOOP
    EXECUTE format('CREATE FUNCTION evil.trap_%s(a pg_catalog.%s, b pg_catalog.%s) RETURNS pg_catalog.%s LANGUAGE plpgsql AS %L',
      o.oid, (SELECT typname FROM pg_type WHERE oid = o.l), (SELECT typname FROM pg_type WHERE oid = o.r),
      (SELECT typname FROM pg_type WHERE oid = o.result),
      format('BEGIN RAISE EXCEPTION USING MESSAGE = %L; END', o.oprname || ' of the writer was called'));
    EXECUTE format('CREATE OPERATOR evil.%s (LEFTARG = pg_catalog.%s, RIGHTARG = pg_catalog.%s, FUNCTION = evil.trap_%s)', o.oprname,
      (SELECT typname FROM pg_type WHERE oid = o.l), (SELECT typname FROM pg_type WHERE oid = o.r), o.oid);
  END LOOP;
  FOR o IN SELECT proname, pg_get_function_identity_arguments(oid) AS args, prorettype::regtype AS result FROM pg_proc
            WHERE pronamespace = 'pg_catalog'::regnamespace
              AND proname IN ('set_config', 'current_setting', 'nextval', 'setval', 'pg_sequence_last_value', 'clock_timestamp') LOOP
    EXECUTE format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', o.proname, o.args, o.result,
      format('BEGIN RAISE EXCEPTION USING MESSAGE = %L; END', o.proname || ' of the writer was called'));
  END LOOP;
END $$;
SET search_path = evil, pg_catalog`;

test("no operator, type or function of the writer's search_path becomes part of stamping", async () => {
  await using db = await createDatabase();
  await db.query("CREATE TABLE t (id text, n bigint, home text, PRIMARY KEY (id, n))");
  await install(db, { tables: [owned("public.t", "home")] });
  await db.query("INSERT INTO t VALUES ('known', 1, 'moldova'); DELETE FROM t");
  await db.query(traps);
  await expect(db.query("SELECT 1::bigint = 1::bigint")).rejects.toThrow("= of the writer was called");
  await expect(db.query("SELECT clock_timestamp()")).rejects.toThrow(
    "clock_timestamp of the writer was called",
  );
  // In a session of its own: nothing of it is compiled or planned yet.
  const fresh = await db.connect();
  await fresh.query("SET search_path = evil, pg_catalog");
  await fresh.query(`INSERT INTO public.t VALUES ('known', 1, 'moldova'), ('b', 2, 'argentina'), ('c', 3, NULL);
    UPDATE public.t SET home = 'moldova'; UPDATE public.t SET home = NULL;
    UPDATE public.t SET id = 'd', n = 7 WHERE n OPERATOR(pg_catalog.=) 2;
    INSERT INTO public.t VALUES ('c', 3, 'moldova') ON CONFLICT (id, n) DO UPDATE SET home = excluded.home;
    DELETE FROM public.t WHERE n OPERATOR(pg_catalog.=) 3; INSERT INTO public.t VALUES ('c', 3, 'x');
    TRUNCATE public.t`);
  await fresh.query(`BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO public.t VALUES ('known', 1, 'x');
    DELETE FROM public.t; COMMIT`);
  await db.query("RESET search_path");
  const dead = [...(await tombstones(db, "public.t", ["id", "n"])).keys()];
  expect(dead.sort((a, b) => a.localeCompare(b))).toEqual(["b,2", "c,3", "d,7", "known,1"]);
});

test("deletes by ON DELETE CASCADE leave tombstones; SET NULL stamps", async () => {
  await using db = await createDatabase();
  await db.query(`CREATE TABLE parent (id int PRIMARY KEY);
    CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent ON DELETE CASCADE);
    CREATE TABLE other (id int PRIMARY KEY, p int REFERENCES parent ON DELETE SET NULL ON UPDATE CASCADE)`);
  await install(db);
  await db.query(`INSERT INTO parent VALUES (1), (2), (3);
    INSERT INTO child VALUES (10, 1), (11, 1), (12, 2); INSERT INTO other VALUES (20, 1), (21, 3)`);
  const before = await states(db, "other");
  await db.query("DELETE FROM parent WHERE id IN (1, 2); UPDATE parent SET id = 4 WHERE id = 3");
  expect([...(await tombstones(db, "public.child")).keys()]).toEqual(["10", "11", "12"]);
  const after = await states(db, "other");
  for (const id of ["20", "21"]) expect(after.get(id)?.prev).toBe(before.get(id)?.version);
  expect(await db.query("SELECT id, p FROM other ORDER BY 1")).toEqual([
    { id: 20, p: null },
    { id: 21, p: 4 },
  ]);
});

test("users' triggers: one that keeps rows, one that changes the key, one that writes the table again", async () => {
  await using db = await createDatabase();
  await db.query(`CREATE TABLE t (id int PRIMARY KEY, v text, touched int DEFAULT 0);
    CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      IF TG_OP = 'DELETE' THEN RETURN CASE WHEN OLD.v = 'kept' THEN NULL ELSE OLD END; END IF;
      IF NEW.v = 'skip' THEN RETURN NULL; END IF;
      IF NEW.v = 'elsewhere' THEN NEW.id := NEW.id + 100; END IF;
      RETURN NEW; END $$;
    CREATE TRIGGER keep BEFORE INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION keep();
    CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      IF TG_OP = 'DELETE' AND OLD.v = 'phoenix' THEN INSERT INTO t VALUES (OLD.id, 'risen'); END IF;
      IF TG_OP = 'INSERT' AND NEW.v = 'twice' THEN UPDATE t SET touched = 1 WHERE id = NEW.id; END IF;
      IF TG_OP = 'INSERT' AND NEW.v = 'moth' THEN DELETE FROM t WHERE id = NEW.id; END IF;
      RETURN NULL; END $$;
    CREATE TRIGGER again AFTER INSERT OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION again()`);
  await install(db);
  await db.query("INSERT INTO t VALUES (1, 'kept'), (2, 'x'), (3, 'phoenix')");
  await db.query("DELETE FROM t");
  let rows = await states(db, "t");
  let dead = await tombstones(db, "public.t");
  expect([...rows.keys()]).toEqual(["1", "3"]);
  expect([...dead.keys()]).toEqual(["2", "3"]);
  expect(rows.get("3")?.prev).toBe(dead.get("3")?.version);
  expect(rows.get("3")?.version).toBeGreaterThan(dead.get("3")?.version ?? 0n);
  // Written again by a trigger before our check of the insert, upon tombstones.
  await db.query("INSERT INTO t VALUES (2, 'twice')");
  rows = await states(db, "t");
  expect(rows.get("2")?.version).toBeGreaterThan(dead.get("2")?.version ?? 0n);
  await db.query(
    "UPDATE t SET v = 'elsewhere' WHERE id = 2; UPDATE t SET v = 'skip' WHERE id = 1; INSERT INTO t VALUES (9, 'moth')",
  );
  dead = await tombstones(db, "public.t");
  expect([...(await states(db, "t")).keys()].sort((a, b) => a.localeCompare(b))).toEqual(["1", "102", "3"]);
  expect([...dead.keys()].sort((a, b) => a.localeCompare(b))).toEqual(["2", "3", "9"]);
  expect((await states(db, "t")).get("102")).toMatchObject({ prev: 0n, seen: null });
});

test("stamping anew fires no trigger, and leaves the session's role as it was", async () => {
  await using db = await createDatabase();
  await db.query(`CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE seen (n int);
    CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen VALUES (1); RETURN NULL; END $$;
    CREATE TRIGGER see AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION see()`);
  await install(db);
  await db.query("INSERT INTO t VALUES (1); DELETE FROM t; BEGIN; INSERT INTO t VALUES (1)");
  expect(await db.query("SELECT current_setting('session_replication_role') AS role")).toEqual([
    { role: "origin" },
  ]);
  await db.query("COMMIT");
  expect((await states(db, "t")).get("1")?.prev).not.toBe(0n);
  expect(await db.query("SELECT FROM seen")).toEqual([]);
});

test("COPY, and what a client sends in the cg_ columns", async () => {
  await using db = await createDatabase();
  await db.query("CREATE TABLE t (id int PRIMARY KEY, v text)");
  await install(db);
  await db.query("INSERT INTO t (id, cg_version, cg_prev, cg_seen) VALUES (1, 7, 6, '{5}')");
  await db.query("UPDATE t SET cg_version = 9223372036854775807, cg_prev = -1");
  const state = (await states(db, "t")).get("1");
  expect(state?.seen).toBeNull();
  expect((state?.version ?? 0n) >> 10n).toBeLessThan(BigInt(Date.now() + 60_000) * 1000n);
});

test("keys of every kind, and names that must be quoted", async () => {
  await using db = await createDatabase();
  await db
    .query(`CREATE SCHEMA "Sch""ema"; CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE DOMAIN dom AS text CHECK (value <> '');
    CREATE COLLATION german (provider = icu, locale = 'de')`)
    .catch(async () => {
      await db.query(`CREATE SCHEMA IF NOT EXISTS "Sch""ema"; CREATE TYPE mood AS ENUM ('good', 'bad');
      CREATE DOMAIN dom AS text CHECK (value <> ''); CREATE COLLATION german FROM "C"`);
    });
  const types: [string, string][] = [
    ["smallint", "1"],
    ["bigint", "9007199254740993"],
    ["uuid", "00000000-0000-7000-8000-000000000001"],
    ["text", "Ünïcode"],
    ["varchar(10)", "x"],
    ["char(26)", "01ARZ3NDEKTSV4RRFFQ69G5FAV"],
    ["bytea", "\\x00ff"],
    ["date", "2026-01-01"],
    ["timestamptz", "2026-01-01 00:00:00.123456+00"],
    ["time", "12:00:00.000001"],
    ["boolean", "true"],
    ["mood", "bad"],
    ["dom", "d"],
    ["inet", "10.0.0.1"],
    ["macaddr", "08:00:2b:01:02:03"],
    ["oid", "7"],
    ['"char"', "a"],
    ["name", "n"],
  ];
  const columns = types.map(([type], i) => `"K""${i}" ${type.replace(/^"?char"$/, '"char"')}`);
  const names = types.map((_, i) => `"K""${i}"`).join(", ");
  await db.query(
    `CREATE TABLE "Sch""ema"."T'a""b $1 %I" (v int, ${columns.join(", ")}, PRIMARY KEY (${names}))`,
  );
  await db.query('CREATE TABLE collated (id text COLLATE german PRIMARY KEY, "cg" int)');
  await db.query(`CREATE TABLE "${"é".repeat(31)}" (id int PRIMARY KEY)`);
  await install(db, { schemas: ["public", 'Sch"ema'] });
  const table = `"Sch""ema"."T'a""b $1 %I"`;
  const values = types.map(([, value]) => value);
  const marks = types.map(([type], i) => `$${i + 1}::${type}`).join(", ");
  await db.query(`INSERT INTO ${table} (${names}) VALUES (${marks})`, values);
  await db.query(`UPDATE ${table} SET v = 1`);
  await db.query(`DELETE FROM ${table}`);
  await db.query(`INSERT INTO ${table} (${names}) VALUES (${marks})`, values);
  await db.query(`UPDATE ${table} SET "K""0" = 2`);
  await db.query(`TRUNCATE ${table}`);
  expect((await tombstones(db, `Sch"ema.T'a"b $1 %I`, ['K"0'])).size).toBe(2);
  await db.query(
    `INSERT INTO collated VALUES ('a'); DELETE FROM collated; INSERT INTO "${"é".repeat(31)}" VALUES (1)`,
  );
  const [tomb] = await db.query<{ same: boolean }>(
    `SELECT a.attcollation = b.attcollation AS same FROM pg_attribute a, pg_attribute b, coregent.replicated_table r
      WHERE r.name = 'public.collated' AND a.attrelid = 'collated'::regclass AND a.attname = 'id'
        AND b.attrelid = ('coregent.' || quote_ident(r.tombstone))::regclass AND b.attname = 'id'`,
  );
  expect(tomb?.same).toBe(true);
});

test("owners: whose delete and whose change of owner has authority", async () => {
  await using db = await createDatabase();
  await db.query(
    "CREATE TYPE region AS ENUM ('moldova', 'argentina'); CREATE TABLE t (id int PRIMARY KEY, home region)",
  );
  await install(db, { tables: [owned("public.t", "home")] });
  await db.query("INSERT INTO t VALUES (1, 'moldova'), (2, 'argentina'), (3, NULL)");
  const inserted = await states(db, "t");
  expect(inserted.get("1")?.base).toBe(inserted.get("1")?.version);
  expect([inserted.get("2")?.base, inserted.get("3")?.base]).toEqual([0n, 0n]);
  await db.query("UPDATE t SET home = 'moldova' WHERE id = 2; UPDATE t SET home = NULL WHERE id = 3");
  const changed = await states(db, "t");
  expect(changed.get("2")?.base).toBe(changed.get("2")?.version);
  expect(changed.get("3")?.base).toBe(0n);
  await db.query("DELETE FROM t");
  const dead = await tombstones(db, "public.t");
  expect(dead.get("1")?.base).toBe(dead.get("1")?.version);
  expect(dead.get("3")?.base).toBe(0n);
  await db.query(
    "SELECT coregent.raise_floor(coregent.next_version(coregent.next_version(0) + (1::bigint << 40)))",
  );
  const [floor] = await db.query<{ v: string }>("SELECT coregent.floor_version() AS v");
  await db.query("INSERT INTO t VALUES (1, 'moldova')");
  expect((await states(db, "t")).get("1")?.version).toBeGreaterThan(BigInt(floor?.v ?? 0));
});

test("a trigger that puts a row where another has moved away", async () => {
  await using db = await createDatabase();
  await db.query(`CREATE TABLE t (id int PRIMARY KEY, v text);
    CREATE FUNCTION forward() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO t VALUES (OLD.id, 'moved to ' || NEW.id); RETURN NULL; END $$;
    CREATE TRIGGER forward AFTER UPDATE ON t FOR EACH ROW WHEN (OLD.id <> NEW.id) EXECUTE FUNCTION forward()`);
  await install(db);
  await db.query("INSERT INTO t VALUES (1, 'x')");
  const before = (await states(db, "t")).get("1");
  await db.query("UPDATE t SET id = 2");
  const [row, dead] = [(await states(db, "t")).get("1"), (await tombstones(db, "public.t")).get("1")];
  expect(dead?.prev).toBe(before?.version);
  expect(row?.prev).toBe(dead?.version);
  expect(row?.version).toBeGreaterThan(dead?.version ?? 0n);
});

test.each([
  // A tombstone which a merge brought while the row was written, and the sweep has not come yet.
  { owner: null, row: [0n, 1000n], dead: [0n, 5000n], upon: "dead" },
  { owner: "home", row: [0n, 1000n], dead: [0n, 5000n], upon: "dead" },
  { owner: "home", row: [1000n, 1000n], dead: [5000n, 5000n], upon: "dead" },
  // A row whose base outranks a tombstone of a higher version.
  { owner: "home", row: [1000n, 1000n], dead: [0n, 5000n], upon: "row" },
] as const)("a delete stands above row and tombstone, upon the higher: $owner $row $dead", async (story) => {
  await using db = await createDatabase();
  await db.query("CREATE TABLE t (id int PRIMARY KEY, home text)");
  await install(db, { tables: story.owner === null ? [] : [owned("public.t", story.owner)] });
  const [{ tombstone } = { tombstone: "" }] = await db.query<{ tombstone: string }>(
    "SELECT tombstone FROM coregent.replicated_table WHERE name = 'public.t'",
  );
  // Both an hour ahead of the clock here, by region 7.
  const ahead = BigInt(Date.now() + 3_600_000) * 1000n;
  const at = (micros: bigint): bigint => (micros === 0n ? 0n : ((ahead + micros) << 10n) | 7n);
  const put = async (relation: string, [base, version]: readonly [bigint, bigint]): Promise<void> => {
    const columns = story.owner === null ? "" : ", cg_base";
    const value = story.owner === null ? "" : `, ${at(base)}`;
    await db.query(
      `INSERT INTO ${relation} (id, cg_version, cg_seen${columns}) VALUES (1, ${at(version)}, '{2}'${value})`,
    );
  };
  await db.query("SET session_replication_role = replica");
  await put("t", story.row);
  await put(`coregent.${tombstone}`, story.dead);
  await db.query("RESET session_replication_role; DELETE FROM t");
  const after = (await tombstones(db, "public.t")).get("1");
  const [base, version] = story[story.upon];
  expect(after).toMatchObject({ prev: at(version), seen: [2n, at(version)] });
  if (story.owner !== null) expect(after?.base).toBe(at(base));
  expect(after?.version).toBeGreaterThan(at(5000n));
  expect((after?.version ?? 0n) & 1023n).toBe(3n);
});
