import { Buffer } from "node:buffer";
import fc from "fast-check";
import type { Client } from "pg";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { connect } from "../../src/postgres/client.ts";
import { type Answer, Flight, type Parameter, Statement } from "../../src/postgres/flight.ts";
import { createDatabase, type TestDatabase } from "../support/database.ts";
import { refusingAtCommit } from "../support/at-commit.ts";

let db: TestDatabase;
let client: Client;
let names = 0;

beforeAll(async () => {
  db = await createDatabase();
  await db.query("CREATE TABLE t (n int PRIMARY KEY)");
});
afterAll(() => db[Symbol.asyncDispose]());
beforeEach(async () => {
  await db.query("TRUNCATE t");
  client = await connect(db.url, { applicationName: "flight", pipeline: true });
  return () => client.end();
});

const statement = (text: string): Statement => new Statement(`s${++names}`, text);

/** All of it in one flight. */
const fly = (
  ...asked: readonly (readonly [Statement, ...Parameter[]])[]
): Promise<PromiseSettledResult<Answer>[]> => {
  const flight = new Flight();
  const answers = asked.map(([each, ...values]) => flight.ask(each, values));
  flight.sendBy(client);
  return Promise.allSettled(answers);
};

const one = async (each: Statement, ...values: readonly Parameter[]): Promise<Answer> => {
  const [settled] = await fly([each, ...values]);
  if (settled?.status !== "fulfilled") throw settled?.reason;
  return settled.value;
};

/** What the server has sent, by kind of message. */
const heard = (): string[] => {
  const kinds: string[] = [];
  for (const kind of ["parseComplete", "rowDescription", "commandComplete", "errorMessage", "readyForQuery"])
    client.connection.on(kind, () => kinds.push(kind));
  return kinds;
};

const insert = (): Statement => statement("INSERT INTO public.t VALUES ($1)");
const begin = statement("BEGIN");
const commit = statement("COMMIT");

test("each is answered what it was asked: rows, how many were written, the command", async () => {
  const answers = await fly(
    [insert(), 1],
    [
      statement(
        "SELECT n, n > 1 AS more, NULL AS nothing, ARRAY['a', NULL] AS texts FROM public.t ORDER BY n",
      ),
    ],
    [statement("DELETE FROM public.t WHERE n > $1"), 5],
    [statement("SELECT FROM public.t")],
  );
  expect(answers.map((answer) => (answer.status === "fulfilled" ? answer.value : answer.reason))).toEqual([
    { rows: [], rowCount: 1, command: "INSERT" },
    { rows: [{ n: 1, more: false, nothing: null, texts: ["a", null] }], rowCount: 1, command: "SELECT" },
    { rows: [], rowCount: 0, command: "DELETE" },
    { rows: [{}], rowCount: 1, command: "SELECT" },
  ]);
});

test("it is ready once, and a statement is parsed and described with its first execution only", async () => {
  const each = statement("SELECT $1::int AS n");
  const kinds = heard();
  await fly([begin], [each, 1], [each, 2], [commit]);
  const first = kinds.splice(0);
  expect(first.filter((kind) => kind === "readyForQuery")).toHaveLength(1);
  expect(first.filter((kind) => kind === "parseComplete")).toHaveLength(3);
  const again = await fly([begin], [each, 3], [commit]);
  expect(again[1]).toMatchObject({ value: { rows: [{ n: 3 }] } });
  expect(kinds).toEqual(["commandComplete", "commandComplete", "commandComplete", "readyForQuery"]);
});

test("after one that fails the others are not done, and the transaction is to be rolled back", async () => {
  const [begun, done, failed, skipped, committed] = await fly(
    [statement("BEGIN")],
    [insert(), 1],
    [insert(), 1],
    [statement("INSERT INTO public.t VALUES (2)")],
    [statement("COMMIT")],
  );
  expect([begun?.status, done?.status]).toEqual(["fulfilled", "fulfilled"]);
  for (const one of [failed, skipped, committed])
    expect(one).toMatchObject({ status: "rejected", reason: { code: "23505" } });
  await expect(one(statement("SELECT 1"))).rejects.toMatchObject({ code: "25P02" });
  expect(await one(statement("ROLLBACK"))).toMatchObject({ command: "ROLLBACK" });
  expect(await db.query("SELECT n FROM t")).toEqual([]);
});

test("a statement that is committed by the Sync has failed where that fails", async () => {
  await db.query(refusingAtCommit("NEW.n = 13"));
  await expect(one(insert(), 13)).rejects.toThrow("refused");
  expect(await one(insert(), 14)).toMatchObject({ rowCount: 1 });
});

test("what was not parsed because of another's failure is parsed with its next execution", async () => {
  const later = statement("SELECT 7 AS n");
  await fly([statement("SELECT 1 / 0")], [later]);
  expect(await one(later)).toMatchObject({ rows: [{ n: 7 }] });
});

test("flights that are sent one behind the other are answered in order", async () => {
  const each = insert();
  const [first, second] = await Promise.all([
    fly([begin], [each, 1], [commit]),
    fly([begin], [each, 2], [commit]),
  ]);
  expect([...first, ...second].map(({ status }) => status)).toEqual(Array(6).fill("fulfilled"));
  expect(await db.query("SELECT n FROM t ORDER BY n")).toEqual([{ n: 1 }, { n: 2 }]);
});

test("a session that ends says so to all that was asked", async () => {
  const waiting = fly([statement("SELECT pg_sleep(60)")], [statement("SELECT 1")]);
  const queued = fly([statement("SELECT 2")]);
  await db.query(
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'flight' AND datname = current_database()",
  );
  for (const one of [...(await waiting), ...(await queued)]) expect(one.status).toBe("rejected");
  expect((await fly([statement("SELECT 3")]))[0]?.status).toBe("rejected");
});

/** PostgreSQL's texts have no NUL, and lone surrogates no bytes. */
const text = fc.string({ unit: "binary", maxLength: 3_000 }).filter((value) => !value.includes("\0"));

test("any values arrive as they are, however long", async () => {
  const each = statement(
    "SELECT $1::text AS a, $2::text[] AS b, $3::bytea = decode($4, 'hex') AS same, $5::bigint::text AS n",
  );
  const values = fc.record({
    a: fc.option(text),
    b: fc.array(fc.option(fc.oneof(text, fc.constantFrom('"', "\\", "{}", ",", "NULL", ""))), {
      maxLength: 5,
    }),
    bytes: fc.oneof(fc.uint8Array({ maxLength: 100 }), fc.uint8Array({ minLength: 4_090, maxLength: 9_000 })),
    n: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  });
  await fc.assert(
    fc.asyncProperty(values, async ({ a, b, bytes, n }) => {
      const hex = Buffer.from(bytes).toString("hex");
      const { rows } = await one(each, a, b, bytes, hex, n);
      expect(rows).toEqual([{ a, b, same: true, n: String(n) }]);
    }),
    { numRuns: 200 },
  );
}, 60_000);
