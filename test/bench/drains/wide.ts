import type { Bar } from "../case.ts";
import type { Workload } from "./workload.ts";

const bar: Bar = { of: "ratio", is: "at least", value: 1, aim: null };

/** A uuid key and 39 columns of thirteen kinds, three times. */
const kinds: readonly (readonly [type: string, value: string])[] = [
  ["text", "'text ' || n"],
  ["text", "md5(n::text)"],
  ["int", "n"],
  ["bigint", "n::bigint * 1000003"],
  ["numeric(14,4)", "n / 7.0"],
  ["boolean", "n % 2 = 0"],
  ["double precision", "n / 3.0::float8"],
  ["date", "date '2026-01-01' + n % 1000"],
  ["timestamptz", "timestamptz '2026-01-01' + n * interval '1 second'"],
  ["uuid", "md5('u' || n)::uuid"],
  ["smallint", "(n % 30000)::smallint"],
  ["varchar(40)", "CASE WHEN n % 4 = 0 THEN NULL ELSE 'maybe ' || n END"],
  ["jsonb", "jsonb_build_object('n', n)"],
];
const columns = [...kinds, ...kinds, ...kinds];

export const wide: Workload = {
  name: "drain-wide",
  title: "drain of 50,000 rows of 40 columns by one transaction",
  bar,
  unit: "rows/s",
  schema: `CREATE TABLE wide (id uuid PRIMARY KEY, ${columns.map(([type], i) => `c${i} ${type}`).join(", ")})`,
  tables: ["wide"],
  at: ({ scaled }) => {
    const rows = scaled(50_000);
    const insert = `INSERT INTO wide SELECT md5(n::text)::uuid, ${columns.map(([, value]) => value).join(", ")}
      FROM generate_series(1, ${rows}) AS n`;
    return { counted: rows, changes: rows, seed: [], backlog: [insert] };
  },
};

/** Text that does not compress, so it lies in the TOAST relation. */
const tenKilobytesOfText = `(SELECT string_agg(md5(n::text || '/' || k), '') FROM generate_series(1, 312) AS k)`;

export const tenKilobytes: Workload = {
  name: "drain-10kb",
  title: "drain of 10,000 rows of 10 kB, transactions of 100",
  bar,
  unit: "rows/s",
  schema: "CREATE TABLE documents (id uuid PRIMARY KEY, title text NOT NULL, body text NOT NULL)",
  tables: ["documents"],
  at: ({ scaled }) => {
    const rows = scaled(10_000, 100);
    const insert = `INSERT INTO documents SELECT md5(n::text)::uuid, 'document ' || n, ${tenKilobytesOfText}
      FROM generate_series(t * 100 - 99, t * 100) AS n;`;
    const backlog = [`DO $$ BEGIN FOR t IN 1..${rows / 100} LOOP ${insert} COMMIT; END LOOP; END $$`];
    return { counted: rows, changes: rows, seed: [], backlog };
  },
};
