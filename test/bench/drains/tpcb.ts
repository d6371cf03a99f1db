import { inTransactions, type Workload } from "./workload.ts";

const branches = 10;
const tellers = 100;

/** Each transaction updates an account, a teller and a branch, and adds to the history. */
const transaction = (accounts: number): string => `
  UPDATE accounts SET balance = balance + n % 100 WHERE id = n * 7919 % ${accounts} + 1;
  UPDATE tellers SET balance = balance + n % 100 WHERE id = n * 31 % ${tellers} + 1;
  UPDATE branches SET balance = balance + n % 100 WHERE id = n % ${branches} + 1;
  INSERT INTO history VALUES (
    md5(n::text)::uuid, n * 31 % ${tellers} + 1, n % ${branches} + 1, n * 7919 % ${accounts} + 1, n % 100,
    timestamptz '2026-01-01' + n * interval '1 ms');`;

const fill = (table: string, rows: number): string =>
  `INSERT INTO ${table} SELECT n, n % ${branches} + 1, 0, repeat('x', 80) FROM generate_series(1, ${rows}) AS n`;

export const tpcb: Workload = {
  name: "drain-tpcb",
  title: "drain of a TPC-B-like mix of 4 tables, 20,000 transactions",
  bar: { of: "ratio", is: "at least", value: 1.2, aim: 2 },
  unit: "transactions/s",
  schema: `
    CREATE TABLE branches (id int PRIMARY KEY, branch int NOT NULL, balance bigint NOT NULL, filler text);
    CREATE TABLE tellers (id int PRIMARY KEY, branch int NOT NULL, balance bigint NOT NULL, filler text);
    CREATE TABLE accounts (id int PRIMARY KEY, branch int NOT NULL, balance bigint NOT NULL, filler text);
    CREATE TABLE history (id uuid PRIMARY KEY, teller int NOT NULL, branch int NOT NULL, account int NOT NULL,
                          delta int NOT NULL, at timestamptz NOT NULL)`,
  tables: ["branches", "tellers", "accounts", "history"],
  at: ({ scaled }) => {
    const transactions = scaled(20_000);
    const accounts = scaled(100_000);
    return {
      counted: transactions,
      changes: transactions * 4,
      seed: [fill("branches", branches), fill("tellers", tellers), fill("accounts", accounts)],
      backlog: [inTransactions(transactions, transaction(accounts))],
    };
  },
};
