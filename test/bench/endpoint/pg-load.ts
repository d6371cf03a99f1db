import process from "node:process";
import { Client } from "pg";
import { itemColumns } from "../drains/items.ts";
import { type Lane, runPlan } from "./drive.ts";
import { type LoadPlan, pageRows } from "./plan.ts";
import { item, itemKey } from "./rows.ts";

/** The same load by `pg` from one process, each statement prepared in its session and in a transaction of its own. */

const plan = JSON.parse(process.argv[2] ?? "{}") as LoadPlan;

const insert = `INSERT INTO items (${itemColumns}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`;
const texts = {
  insert: `${insert} RETURNING ${itemColumns}`,
  insertMinimal: insert,
  read: `SELECT ${itemColumns} FROM items WHERE id = $1`,
  page: `SELECT ${itemColumns} FROM items LIMIT $1`,
} as const;

const total = plan.warmUp + plan.count;
const values = Array.from({ length: total }, (_, i) => {
  const n = plan.from + i;
  if (plan.work === "page") return [pageRows];
  return plan.work === "read" ? [itemKey(n)] : Object.values(item(n));
});

const laneOf = (client: Client): Lane => ({
  send: (n, done) => {
    const config = { name: plan.work, text: texts[plan.work], values: values[n - plan.from] ?? [] };
    client.query<{ name: string }>(config, (error, result) => {
      if (error instanceof Error) {
        done(error.message);
        return;
      }
      const { rows, rowCount } = result;
      const wanted = plan.work === "page" ? pageRows : 1;
      const named = plan.work === "insert" || plan.work === "read";
      const right = rowCount === wanted && (!named || rows[0]?.name === `item ${n}`);
      done(right ? null : `${rowCount} rows`);
    });
  },
});

const clients = Array.from(
  { length: plan.connections },
  () => new Client({ host: "127.0.0.1", port: plan.port, user: "postgres", database: plan.database }),
);
await Promise.all(clients.map((client) => client.connect()));
await runPlan(plan, clients.map(laneOf));
await Promise.all(clients.map((client) => client.end()));
process.exit();
