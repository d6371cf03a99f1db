import type { BenchServer } from "../bench-server.ts";
import { slotName } from "../../../src/postgres/install/names.ts";
import type { Bar, BenchCase, BenchContext, BenchResult } from "../case.ts";
import { itemColumns, itemsSchema, itemValues } from "../drains/items.ts";
import { LoadSession } from "../load-session.ts";
import { clusterName, openCluster, regionAt } from "../region.ts";
import { createDatabase, dropDatabase, dropSlot, renameDatabase, run, withClient } from "../sql.ts";

/**
 * What the triggers cost whoever writes: the same load on one server, into a database that Coregent has prepared and into
 * a plain one. No agent runs. `synchronous_commit = off`, so that the disk hides nothing.
 */

const connections = 8;
/** Transactions under way on each connection: one, as where an application waits for each answer; many, in a pipeline. */
const depths = { waiting: 1, pipelined: 32 } as const;
const noWait = "SET synchronous_commit = off";
const templates = { prepared: "local_prepared", plain: "local_plain" } as const;

/** Rows to insert lie ready beside the tables, so that making them is no part of what is measured. */
const stagedSchema = (rows: number): readonly string[] => [
  "CREATE SCHEMA staged",
  "CREATE TABLE staged.items AS SELECT * FROM items WITH NO DATA",
  `INSERT INTO staged.items SELECT ${itemValues("n")} FROM generate_series(1, ${rows}) AS n`,
];

const schema = [
  itemsSchema,
  itemsSchema.replace("items (", "owned (").replace(/\)\s*$/, ", home_region text NOT NULL)"),
];

const insertOne = `
INSERT INTO items (${itemColumns})
VALUES (gen_random_uuid(), 'item', 'a note of some length', 17, 12.34, '{"colour": "red", "weight": 7}', now(), now())`;

const insertBulk = "INSERT INTO items SELECT * FROM staged.items";
const insertOwned = "INSERT INTO owned SELECT *, 'a' FROM staged.items";

type Kind = keyof typeof templates;

const open = async ({ servers }: BenchContext, rows: number): Promise<BenchServer> => {
  const tables = [{ name: "public.owned", owner: "home_region" }];
  const staged = stagedSchema(rows);
  const cluster = await openCluster(servers, { regions: 2, schema, seed: staged, tables });
  const { server } = regionAt(cluster, 0);
  await renameDatabase(server, cluster.database, templates.prepared);
  await createDatabase(server, templates.plain);
  await run(server, templates.plain, ...schema, ...staged);
  await withClient(server.url(), (client) => dropSlot(client, slotName(clusterName, 1, 2)));
  await cluster[Symbol.asyncDispose]();
  for (const database of Object.values(templates)) await run(server, database, "VACUUM FREEZE ANALYZE");
  return server;
};

const database = "local";

const fresh = async (server: BenchServer, kind: Kind): Promise<void> => {
  await createDatabase(server, database, templates[kind]);
  await run(server, database, "CHECKPOINT");
};

const singles = async (
  server: BenchServer,
  kind: Kind,
  { seconds, depth }: { readonly seconds: number; readonly depth: number },
): Promise<number> => {
  await fresh(server, kind);
  const load = { statement: insertOne, settings: [noWait] };
  const sessions = await Promise.all(
    Array.from({ length: connections }, () => LoadSession.open(server, database, load)),
  );
  const startedAt = performance.now();
  const counts = await Promise.all(
    sessions.map((session) => session.flood(depth, () => performance.now() - startedAt < seconds * 1000)),
  );
  const took = (performance.now() - startedAt) / 1000;
  for (const session of sessions) session.end();
  return counts.reduce((sum, count) => sum + count, 0) / took;
};

const bulk = async (server: BenchServer, kind: Kind, statement: string): Promise<number> => {
  await fresh(server, kind);
  return await withClient(server.url(database), async (client) => {
    await client.query(noWait);
    // Of both alike: the staged rows are read from memory.
    await client.query("SELECT count(*) FROM staged.items");
    const startedAt = performance.now();
    const { rowCount } = await client.query(statement);
    return (rowCount ?? 0) / ((performance.now() - startedAt) / 1000);
  });
};

interface LocalCase {
  readonly name: string;
  readonly title: string;
  readonly bar: Bar | null;
  once(server: BenchServer, kind: Kind): Promise<number>;
}

const runLocal = async (context: BenchContext): Promise<BenchResult> => {
  const rows = context.scaled(200_000);
  const seconds = Math.max(0.5, Math.min(1.5, 1.5 * Math.sqrt(context.scale)));
  const server = await open(context, rows);
  const all: readonly LocalCase[] = [
    {
      name: "local-singles",
      title: `local single-row inserts, ${connections} connections, with triggers against without`,
      bar: { of: "ratio", is: "at least", value: 0.8, aim: 0.92 },
      once: (_, kind) => singles(server, kind, { seconds, depth: depths.waiting }),
    },
    {
      name: "local-pipelined",
      title: `the same, ${depths.pipelined} under way on each connection: what the server alone does`,
      bar: null,
      once: (_, kind) => singles(server, kind, { seconds, depth: depths.pipelined }),
    },
    {
      name: "local-bulk",
      title: "local insert of 200,000 rows by one statement, likewise",
      bar: { of: "ratio", is: "at least", value: 0.6, aim: 0.75 },
      once: (_, kind) => bulk(server, kind, insertBulk),
    },
    {
      name: "local-bulk-owned",
      title: "the same into a table whose rows have owners",
      bar: null,
      once: (_, kind) => bulk(server, kind, insertOwned),
    },
  ];
  const measures = [];
  for (const each of all) measures.push(await alternate(context, server, each));
  for (const name of [database, ...Object.values(templates)]) await dropDatabase(server, name);
  return { measures, failures: [] };
};

const alternate = async (context: BenchContext, server: BenchServer, each: LocalCase) => {
  const ours: number[] = [];
  const native: number[] = [];
  for (let i = -context.warmUps; i < context.runs; i += 1) {
    const [withTriggers, without] = [await each.once(server, "prepared"), await each.once(server, "plain")];
    context.say(
      `  ${each.name}: with triggers ${Math.round(withTriggers)}/s, without ${Math.round(without)}/s`,
    );
    if (i < 0) continue;
    ours.push(withTriggers);
    native.push(without);
  }
  const { name, title, bar } = each;
  return { name, title, unit: "rows/s", ours, native, bar, notes: ["native: the plain table"] };
};

export const local: BenchCase = { name: "local", quick: true, run: runLocal };
