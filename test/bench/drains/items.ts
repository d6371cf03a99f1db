/** The table of 8 columns that most cases write to. */
export const itemsSchema = `
CREATE TABLE items (
  id         uuid PRIMARY KEY,
  name       text NOT NULL,
  note       text,
  quantity   int NOT NULL,
  price      numeric(12,2) NOT NULL,
  attributes jsonb NOT NULL,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL
)`;

export const itemColumns = "id, name, note, quantity, price, attributes, created_at, updated_at";

/** The key of row `n`, an SQL expression: spread as random keys are. */
export const itemId = (n: string): string => `md5(${n}::text)::uuid`;

/** All columns of row `n`, an SQL expression of type int. */
export const itemValues = (n: string): string => `
  ${itemId(n)}, 'item ' || ${n}, md5('note ' || ${n}), ${n} % 1000, (${n} % 100000) / 100.0,
  jsonb_build_object('colour', (ARRAY['red', 'green', 'blue'])[${n} % 3 + 1], 'weight', ${n} % 500, 'tags', jsonb_build_array(${n} % 7, ${n} % 11)),
  timestamptz '2026-01-01' + ${n} * interval '1 second', timestamptz '2026-01-01' + ${n} * interval '1 second'`;

export const insertItems = (from: number, to: number): string =>
  `INSERT INTO items (${itemColumns}) SELECT ${itemValues("n")} FROM generate_series(${from}, ${to}) AS n`;

/** What an update sets, in its `round`, an SQL expression. */
export const itemChange = (round: string): string =>
  `quantity = quantity + 1, price = (${round} % 100000) / 100.0, updated_at = timestamptz '2026-02-01' + ${round} * interval '1 second'`;
