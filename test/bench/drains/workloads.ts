import type { Bar } from "../case.ts";
import { insertItems, itemChange, itemColumns, itemId, itemsSchema, itemValues } from "./items.ts";
import { tpcb } from "./tpcb.ts";
import { tenKilobytes, wide } from "./wide.ts";
import { inTransactions, type Workload } from "./workload.ts";

const ratio = (value: number, aim: number | null): Bar => ({ of: "ratio", is: "at least", value, aim });

const items = { schema: itemsSchema, tables: ["items"], unit: "rows/s" } as const;

const insertOnce: Workload = {
  ...items,
  name: "drain-insert",
  title: "drain of 500,000 rows by one transaction",
  bar: ratio(1.2, 1.5),
  at: ({ scaled }) => {
    const rows = scaled(500_000);
    return { counted: rows, changes: rows, seed: [], backlog: [insertItems(1, rows)] };
  },
};

const singles: Workload = {
  ...items,
  name: "drain-singles",
  title: "drain of 160,000 single-row transactions",
  bar: ratio(1.5, 2),
  unit: "transactions/s",
  at: ({ scaled }) => {
    const rows = scaled(160_000);
    const insert = `INSERT INTO items (${itemColumns}) VALUES (${itemValues("n")});`;
    return { counted: rows, changes: rows, seed: [], backlog: [inTransactions(rows, insert)] };
  },
};

const hotRows = 1000;

const hotUpdates: Workload = {
  ...items,
  name: "drain-hot",
  title: "drain of 500,000 updates over 1,000 rows, 5,000 transactions of 100",
  bar: ratio(1.3, 3),
  at: ({ scaled }) => {
    const transactions = scaled(5_000, 10);
    const update = `UPDATE items SET ${itemChange("n")}
       WHERE id IN (SELECT ${itemId("m")} FROM generate_series(n % 10 * 100 + 1, n % 10 * 100 + 100) AS m);`;
    return {
      counted: transactions * 100,
      changes: transactions * 100,
      seed: [insertItems(1, hotRows)],
      backlog: [inTransactions(transactions, update)],
    };
  },
};

const hotUpdatesOnce: Workload = {
  ...items,
  name: "drain-hot-one",
  title: "the same in one transaction",
  bar: ratio(5, 15),
  at: ({ scaled }) => {
    const rounds = scaled(500);
    return {
      counted: rounds * hotRows,
      changes: rounds * hotRows,
      seed: [insertItems(1, hotRows)],
      backlog: [
        `DO $$ BEGIN FOR n IN 1..${rounds} LOOP UPDATE items SET ${itemChange("n")}; END LOOP; END $$`,
      ],
    };
  },
};

const updates: Workload = {
  ...items,
  name: "drain-updates",
  title: "drain of 300,000 updates over 300,000 rows, one statement",
  bar: ratio(1, 1.3),
  at: ({ scaled }) => {
    const rows = scaled(300_000);
    const backlog = [`UPDATE items SET ${itemChange("quantity")}`];
    return { counted: rows, changes: rows, seed: [insertItems(1, rows)], backlog };
  },
};

const deletes: Workload = {
  ...items,
  name: "drain-deletes",
  title: "drain of 300,000 deletes, one statement",
  bar: ratio(0.8, 1.2),
  at: ({ scaled }) => {
    const rows = scaled(300_000);
    return { counted: rows, changes: rows, seed: [insertItems(1, rows)], backlog: ["DELETE FROM items"] };
  },
};

export const workloads: readonly Workload[] = [
  insertOnce,
  singles,
  hotUpdates,
  hotUpdatesOnce,
  updates,
  deletes,
  tpcb,
  wide,
  tenKilobytes,
];
