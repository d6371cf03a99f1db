/** The tables that the schedules write. All key columns sort by bytes, so that a schedule's keys are a range. */

export interface Table {
  /** In schema public. */
  readonly name: string;
  readonly key: readonly string[];
  /** The column that holds the schedule's prefix. */
  readonly scope: string;
  readonly owner: string | null;
  /** Columns that are neither key nor `cg_`. */
  readonly content: readonly string[];
  /** Has a column whose longer values are stored out of line. */
  readonly big: boolean;
}

/** Written by every region at once, on few keys, so that everything collides. */
export const contended = [
  { name: "plain", key: ["id"], scope: "id", owner: null, content: ["body", "n", "big"], big: true },
  {
    name: "owned",
    key: ["id"],
    scope: "id",
    owner: "home_region",
    content: ["home_region", "body", "n", "big"],
    big: true,
  },
  { name: "paired", key: ["area", "code"], scope: "code", owner: null, content: ["body", "n"], big: false },
  // The one that is truncated.
  { name: "scrap", key: ["id"], scope: "id", owner: null, content: ["body", "n"], big: false },
] as const satisfies readonly [Table, ...Table[]];

const key = `text COLLATE "C"`;

/** `group_a` and `group_b` are written with keys that no other region writes: a group is whole, or not there. */
export const schema = `
  CREATE TABLE plain (id ${key} PRIMARY KEY, body text NOT NULL, n int NOT NULL DEFAULT 0, big text);
  ALTER TABLE plain ALTER COLUMN big SET STORAGE EXTERNAL;
  CREATE TABLE owned (id ${key} PRIMARY KEY, home_region text, body text NOT NULL, n int NOT NULL DEFAULT 0, big text);
  ALTER TABLE owned ALTER COLUMN big SET STORAGE EXTERNAL;
  CREATE TABLE paired (area int, code ${key}, body text NOT NULL, n int NOT NULL DEFAULT 0, PRIMARY KEY (area, code));
  CREATE TABLE scrap (id ${key} PRIMARY KEY, body text NOT NULL, n int NOT NULL DEFAULT 0);
  CREATE TABLE group_a (grp ${key}, i int, round int NOT NULL, of_a int NOT NULL, of_b int NOT NULL, PRIMARY KEY (grp, i));
  CREATE TABLE group_b (grp ${key}, i int, round int NOT NULL, of_a int NOT NULL, of_b int NOT NULL, PRIMARY KEY (grp, i));
  CREATE TABLE marker (region ${key} PRIMARY KEY, mark text NOT NULL);
`;

export const tableOptions = [{ name: "public.owned", owner: "home_region" }];

/** Keys that begin with `prefix`: a condition on the column, for prefixes without the character `~`. */
export const inScope = (column: string, prefix: string): string =>
  `(${column} >= '${prefix}' AND ${column} < '${prefix}~')`;
