import { expect, test } from "vitest";
import type { CatalogColumn, CatalogTable } from "../../src/write/catalog.ts";
import { insertStatements, upsertStatements } from "../../src/write/row-statements.ts";
import { countStatement, pageStatement } from "../../src/write/select-statements.ts";
import {
  deleteStatement,
  ownerStatement,
  replaceStatement,
  tombstoneStatement,
  updateStatement,
} from "../../src/write/statements.ts";
import { row, select } from "./fixture.ts";

const column = (name: string, type: string, changes: Partial<CatalogColumn> = {}): CatalogColumn => ({
  name,
  cast: `pg_catalog.${type}`,
  baseCast: `pg_catalog.${type}`,
  typeOid: 0,
  type,
  shape: "scalar",
  elementType: "",
  maxLength: null,
  notNull: false,
  writable: true,
  default: null,
  isIdentity: false,
  ...changes,
});

const id = column("id", "uuid", { notNull: true });
const columns = [
  id,
  column("bo dy", "text"),
  column("home", "text"),
  column("sum", "int4", { writable: false }),
];
const notes: CatalogTable = {
  name: "public.notes",
  schema: "public",
  table: "notes",
  tombstone: "tombstone_notes",
  ownerColumn: "home",
  failover: "takeover",
  columns: new Map(columns.map((one) => [one.name, one])),
  key: [id],
  gathersInserts: true,
};
const returned = `t."id", t."bo dy", t."home", t."sum", t.cg_version, t.cg_base`;
const inserted = `${returned}, t.cg_prev = 0, EXISTS (SELECT FROM "coregent"."tombstone_notes" d WHERE d."id" = t."id")`;
const options = { returning: null, region: "moldova" };

test("one row; the owner is the region that takes it", () => {
  const [statement] = insertStatements(notes, [row({ id: "u", "bo dy": "b" })], options);
  expect(statement?.text).toBe(
    `INSERT INTO "public"."notes" AS t ("id", "bo dy", "home") VALUES ($1::pg_catalog.uuid, $2::pg_catalog.text, $3::pg_catalog.text) RETURNING ${inserted}`,
  );
  expect(statement?.values).toEqual(["u", "b", "moldova"]);
});

test("many rows are one statement, whose text does not depend on how many; one more for other columns", () => {
  const rows = [row({ id: "1", home: "a" }), row({ id: "2" }), row({ id: "3", home: 'q"' })];
  const statements = insertStatements(notes, rows, options);
  expect(statements.map(({ text, values, positions }) => ({ text, values, positions }))).toEqual([
    {
      text: `INSERT INTO "public"."notes" AS t ("id", "home") SELECT x.c0::pg_catalog.uuid, x.c1::pg_catalog.text FROM unnest($1::text[], $2::text[]) AS x(c0, c1) RETURNING ${inserted}`,
      values: ['{"1","3"}', String.raw`{"a","q\""}`],
      positions: [0, 2],
    },
    {
      text: `INSERT INTO "public"."notes" AS t ("id", "home") VALUES ($1::pg_catalog.uuid, $2::pg_catalog.text) RETURNING ${inserted}`,
      values: ["2", "moldova"],
      positions: [1],
    },
  ]);
});

test("upserts keep an owner that they do not name", () => {
  const upsert = { kind: "upsert", table: "notes", ifMatch: null, ifNoneMatch: null, returning: [] } as const;
  const conflict = (replace: boolean, values: Record<string, string>) => {
    const [statement] = upsertStatements(notes, { ...upsert, replace, rows: [row(values)] }, options);
    return /ON CONFLICT .* RETURNING/.exec(statement?.text ?? "")?.[0];
  };
  expect(conflict(true, { id: "u" })).toBe(`ON CONFLICT ("id") DO UPDATE SET "bo dy" = DEFAULT RETURNING`);
  expect(conflict(false, { id: "u", "bo dy": "b" })).toBe(
    `ON CONFLICT ("id") DO UPDATE SET "bo dy" = excluded."bo dy" RETURNING`,
  );
  expect(conflict(true, { id: "u", home: "x" })).toBe(
    `ON CONFLICT ("id") DO UPDATE SET "bo dy" = DEFAULT, "home" = excluded."home" RETURNING`,
  );
  expect(conflict(false, { id: "u" })).toBe(
    `ON CONFLICT ("id") DO UPDATE SET "id" = excluded."id" RETURNING`,
  );
  const matched = { ...upsert, replace: true, rows: [row({ id: "u" })], ifMatch: "any" } as const;
  expect(replaceStatement(notes, matched).text).toBe(
    `UPDATE "public"."notes" AS t SET "bo dy" = DEFAULT WHERE t."id" = $1::pg_catalog.uuid RETURNING t."id", t.cg_version, t.cg_base`,
  );
});

test("changes by key and version", () => {
  const ifMatch = [
    { version: 7n, base: 5n },
    { version: 9n, base: null },
  ];
  const update = {
    kind: "update",
    table: "notes",
    key: ["u"],
    values: row({ "bo dy": null }),
    returning: [],
  } as const;
  const statement = updateStatement(notes, { ...update, ifMatch });
  expect(statement.text).toBe(
    `UPDATE "public"."notes" AS t SET "bo dy" = $1::pg_catalog.text WHERE t."id" = $2::pg_catalog.uuid AND (t.cg_version = $3::bigint AND t.cg_base = $4::bigint) RETURNING t."id", t.cg_version, t.cg_base`,
  );
  expect(statement.values).toEqual([null, "u", "7", "5"]);
  const none = deleteStatement(notes, {
    kind: "delete",
    table: "notes",
    key: ["u"],
    ifMatch: [],
    returning: [],
  });
  expect(none.text).toContain(`WHERE t."id" = $1::pg_catalog.uuid AND (false)`);
  expect(tombstoneStatement(notes, ["u"]).text).toBe(
    `SELECT t."id", t.cg_version, t.cg_base FROM "coregent"."tombstone_notes" AS t WHERE t."id" = $1::pg_catalog.uuid`,
  );
  expect(ownerStatement(notes, ["u"]).text).toBe(
    `SELECT t."home"::text AS owner FROM "public"."notes" AS t WHERE t."id" = $1::pg_catalog.uuid`,
  );
});

test("pages: filters, a total order that an index serves, and one row more than wanted", () => {
  const filters = [
    { column: "bo dy", comparison: "ilike", negated: true, values: ["a*"] },
    { column: "id", comparison: "in", negated: false, values: ["x", 'y"'] },
  ] as const;
  const order = [{ column: "home", descending: true, nullsFirst: false }];
  const first = pageStatement(
    notes,
    select("notes", { filters, order, columns: ["sum"], limit: 2, offset: 4 }),
  );
  const list = `t."sum", t."id", t."home", t.cg_version, t.cg_base`;
  const where = `NOT (t."bo dy"::text ILIKE $1::text) AND t."id" = ANY ($2::pg_catalog.uuid[])`;
  expect(first.text).toBe(
    `SELECT ${list} FROM "public"."notes" AS t WHERE ${where} ORDER BY t."home" DESC NULLS LAST, t."id" LIMIT $3::bigint OFFSET $4::bigint`,
  );
  expect(first.values).toEqual(["a%", String.raw`{"x","y\""}`, "3", "4"]);
  expect(countStatement(notes, filters)).toMatchObject({
    text: `SELECT count(*)::text AS count FROM "public"."notes" AS t WHERE ${where}`,
  });
  const after = first.cursorAfter(["h", "u"]);
  const next = pageStatement(notes, select("notes", { order, columns: ["sum"], after }));
  expect(next.text).toContain(
    `WHERE (((t."home" < $1::pg_catalog.text OR t."home" IS NULL)) OR (t."home" = $1::pg_catalog.text AND t."id" > $2::pg_catalog.uuid)) ORDER`,
  );
  const byKey = pageStatement(notes, select("notes", {})).cursorAfter(["u"]);
  expect(pageStatement(notes, select("notes", { after: byKey })).text).toContain(
    `WHERE (t."id") > ($1::pg_catalog.uuid) ORDER BY t."id"`,
  );
});
