import type { BenchServer } from "../bench-server.ts";
import { identifier } from "../../../src/postgres/identifiers.ts";
import { slotName } from "../../../src/postgres/install/names.ts";
import { tableTriggers } from "../../../src/postgres/install/triggers.ts";
import type { Bar, BenchCase, BenchContext, BenchResult } from "../case.ts";
import { cpuOfServer, type CpuUse } from "../cpu.ts";
import { itemColumns, itemsSchema, itemValues } from "../drains/items.ts";
import { LoadSession } from "../load-session.ts";
import { clusterName, openCluster, regionAt } from "../region.ts";
import { connect, createDatabase, dropDatabase, dropSlot, renameDatabase, run, withClient } from "../sql.ts";

/**
 * What Coregent costs whoever writes: the same load on one server, into a database that Coregent has prepared, into one that
 * has the state columns and no trigger (which tells the two apart), and into a plain one. No agent runs. `local-singles`
 * flushes its commits, as the servers are set; the others do not, so that there the disk hides nothing. Sessions have written
 * before they are measured, as those of a pool have: what each does once (catalogs, plans, PL/pgSQL's functions) is no part
 * of it.
 */

const connections = 8;
/** Transactions under way on each connection where it does not wait for each answer. */
const pipelineDepth = 32;
/** Of sessions whose commits do not wait for the disk. */
const unflushed = "synchronous_commit = off";
const warmUp = { ms: 200, rows: 1000 } as const;
const templates = { prepared: "local_prepared", columns: "local_columns", plain: "local_plain" } as const;

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

const withoutTriggers = (table: string): readonly string[] => [
  ...tableTriggers({ schema: "public", table, partitioned: false }).map(
    ({ name }) => `DROP TRIGGER ${identifier(name)} ON ${table}`,
  ),
  `ALTER TABLE ${table} ALTER cg_version SET DEFAULT 1`,
];

const insertOne = `
INSERT INTO items (${itemColumns})
VALUES (gen_random_uuid(), 'item', 'a note of some length', 17, 12.34, '{"colour": "red", "weight": 7}', now(), now())`;

const bulkInserts = {
  items: "INSERT INTO items SELECT * FROM staged.items",
  owned: "INSERT INTO owned SELECT *, 'a' FROM staged.items",
} as const;

type Kind = keyof typeof templates;

const open = async ({ servers }: BenchContext, rows: number): Promise<BenchServer> => {
  const tables = [{ name: "public.owned", owner: "home_region" }];
  const staged = stagedSchema(rows);
  const cluster = await openCluster(servers, { regions: 2, schema, seed: staged, tables });
  const { server } = regionAt(cluster, 0);
  await renameDatabase(server, cluster.database, templates.prepared);
  await withClient(server.url(), (client) => dropSlot(client, slotName(clusterName, 1, 2)));
  await cluster[Symbol.asyncDispose]();
  await createDatabase(server, templates.columns, templates.prepared);
  await run(server, templates.columns, ...["items", "owned"].flatMap(withoutTriggers));
  await createDatabase(server, templates.plain);
  await run(server, templates.plain, ...schema, ...staged);
  for (const database of Object.values(templates)) await run(server, database, "VACUUM FREEZE ANALYZE");
  return server;
};

/** Each kind has a database of its own, made anew for each run. */
const databases = { prepared: "local_a", columns: "local_b", plain: "local_c" } as const;

const kinds = ["prepared", "columns", "plain"] as const;
const sides = { prepared: "with triggers", columns: "columns alone", plain: "without" } as const;

const fresh = async (server: BenchServer): Promise<void> => {
  for (const kind of kinds) await createDatabase(server, databases[kind], templates[kind]);
  await run(server, databases.plain, "CHECKPOINT");
};

const countOf = (server: BenchServer, database: string, table: string): Promise<number> =>
  withClient(server.url(database), async (client) => {
    const { rows } = await client.query<{ count: number }>(`SELECT count(*)::int AS count FROM ${table}`);
    return rows[0]?.count ?? 0;
  });

/** Sessions that write to one database. */
interface Writers extends AsyncDisposable {
  /** Before anything is measured. */
  warmUp(): Promise<unknown>;
  /** One part of a run. @returns the rows that it wrote */
  write(): Promise<number>;
}

interface LocalCase {
  readonly name: string;
  readonly title: string;
  readonly bar: Bar | null;
  readonly table: "items" | "owned";
  /** Parts of a run, in each of which all kinds have their turn: what else the machine does meets all of them. */
  readonly parts: number;
  open(server: BenchServer, database: string): Promise<Writers>;
}

interface Singles {
  /** Of each session. */
  readonly settings: readonly string[];
  /** Transactions under way on each connection. */
  readonly depth: number;
  /** Of one part of a run. */
  readonly ms: number;
}

const singles = async (
  server: BenchServer,
  database: string,
  { settings, depth, ms }: Singles,
): Promise<Writers> => {
  const load = { statement: insertOne, settings };
  const sessions = await Promise.all(
    Array.from({ length: connections }, () => LoadSession.open(server, database, load)),
  );
  const flood = async (forMs: number): Promise<number> => {
    const endsAt = performance.now() + forMs;
    const counts = await Promise.all(
      sessions.map((session) => session.flood(depth, () => performance.now() < endsAt)),
    );
    return counts.reduce((sum, count) => sum + count, 0);
  };
  return {
    warmUp: () => flood(warmUp.ms),
    write: () => flood(ms),
    [Symbol.asyncDispose]: async () => {
      for (const session of sessions) session.end();
    },
  };
};

const bulk = async (server: BenchServer, database: string, table: LocalCase["table"]): Promise<Writers> => {
  const client = await connect(server.url(database));
  return {
    warmUp: async () => {
      await client.query(`SET ${unflushed}`);
      // Of all alike: the staged rows are read from memory.
      await client.query("SELECT count(*) FROM staged.items");
      await client.query(`BEGIN; ${bulkInserts[table]} LIMIT ${warmUp.rows}; ROLLBACK`);
    },
    write: async () => (await client.query(bulkInserts[table])).rowCount ?? 0,
    [Symbol.asyncDispose]: () => client.end(),
  };
};

type Load = Pick<LocalCase, "table" | "parts" | "open">;

/** The time of single inserts is cut into so many parts. */
const turns = 5;

const localCases = (seconds: number): readonly LocalCase[] => {
  const single = (how: Omit<Singles, "ms">): Load => ({
    table: "items",
    parts: turns,
    open: (server, database) => singles(server, database, { ...how, ms: (seconds * 1000) / turns }),
  });
  const atOnce = (table: LocalCase["table"]): Load => ({
    table,
    parts: 1,
    open: (server, database) => bulk(server, database, table),
  });
  const singlesBar: Bar = { of: "ratio", is: "at least", value: 0.8, aim: 0.92 };
  const compared = "with triggers against without";
  const inserts = `local single-row inserts, ${connections} connections`;
  return [
    {
      ...single({ settings: [], depth: 1 }),
      name: "local-singles",
      title: `${inserts}, ${compared}`,
      bar: singlesBar,
    },
    {
      ...single({ settings: [`SET ${unflushed}`], depth: 1 }),
      name: "local-nowait",
      title: `${inserts}, ${unflushed}, ${compared}`,
      bar: singlesBar,
    },
    {
      ...single({ settings: [`SET ${unflushed}`], depth: pipelineDepth }),
      name: "local-pipelined",
      title: `${inserts}, ${pipelineDepth} under way on each, ${unflushed}, ${compared}`,
      bar: null,
    },
    {
      ...atOnce("items"),
      name: "local-bulk",
      title: `local insert of 200,000 rows by one statement, ${unflushed}, ${compared}`,
      bar: { of: "ratio", is: "at least", value: 0.6, aim: 0.75 },
    },
    {
      ...atOnce("owned"),
      name: "local-bulk-owned",
      title: `local insert of 200,000 rows that have owners by one statement, ${unflushed}, ${compared}`,
      bar: null,
    },
  ];
};

/** What one kind has written in a run. */
interface Written {
  readonly kind: Kind;
  readonly sessions: Writers;
  readonly heldBefore: number;
  rows: number;
  seconds: number;
  /** Of the whole server. */
  cpuSeconds: number;
}

/** One run of all kinds. @returns for each, what it wrote and how many rows its table holds more than before */
const runOnce = async (
  server: BenchServer,
  each: LocalCase,
  index: number,
): Promise<readonly (Written & { readonly found: number })[]> => {
  await fresh(server);
  await using stack = new AsyncDisposableStack();
  const all: Written[] = [];
  for (const kind of kinds) {
    const sessions = stack.use(await each.open(server, databases[kind]));
    await sessions.warmUp();
    const heldBefore = await countOf(server, databases[kind], each.table);
    all.push({ kind, sessions, heldBefore, rows: 0, seconds: 0, cpuSeconds: 0 });
  }
  for (let part = 0; part < each.parts; part += 1) {
    // Each follows upon each in its turn, as what one leaves to be written burdens the next.
    const first = (index + part) % all.length;
    for (const one of [...all.slice(first), ...all.slice(0, first)]) {
      // A bulk load leaves much.
      if (each.parts === 1) await run(server, databases[one.kind], "CHECKPOINT");
      const cpuBefore = cpuOfServer(server.pid);
      const startedAt = performance.now();
      one.rows += await one.sessions.write();
      one.seconds += (performance.now() - startedAt) / 1000;
      one.cpuSeconds += cpuOfServer(server.pid) - cpuBefore;
    }
  }
  return await Promise.all(
    all.map(async (one) => {
      const held = await countOf(server, databases[one.kind], each.table);
      return { ...one, found: held - one.heldBefore };
    }),
  );
};

const alternate = async (
  context: BenchContext,
  server: BenchServer,
  each: LocalCase,
): Promise<BenchResult> => {
  const rates: Record<Kind, number[]> = { prepared: [], columns: [], plain: [] };
  const uses: Record<Kind, CpuUse[]> = { prepared: [], columns: [], plain: [] };
  const failures: string[] = [];
  for (let i = -context.warmUps; i < context.runs; i += 1) {
    for (const written of await runOnce(server, each, i + context.warmUps)) {
      const { kind, rows, seconds, cpuSeconds, found } = written;
      const perMillion = (cpuSeconds / rows) * 1e6;
      context.say(
        `  ${each.name}, ${sides[kind]}: ${Math.round(rows / seconds)}/s; CPU s per million: ${perMillion.toFixed(2)}`,
      );
      if (found !== rows) failures.push(`${each.name}, ${sides[kind]}: ${found} rows of ${rows}`);
      if (i < 0) continue;
      rates[kind].push(rows / seconds);
      uses[kind].push({ source: perMillion, agent: 0, target: 0 });
    }
  }
  const { name, title, bar } = each;
  const compared = { unit: "rows/s", ours: rates.prepared };
  return {
    measures: [
      { ...compared, name, title, native: rates.plain, bar, notes: ["native: a table with nothing of ours"] },
      {
        ...compared,
        name: `${name}-triggers`,
        title: `${title}, of the same table with the state columns`,
        native: rates.columns,
        bar,
      },
    ],
    cpu: kinds.map((kind) => ({ name, side: sides[kind], changes: 1e6, uses: uses[kind] })),
    failures,
  };
};

const runLocal = async (context: BenchContext): Promise<BenchResult> => {
  const seconds = Math.max(0.5, Math.min(1.5, 1.5 * Math.sqrt(context.scale)));
  const server = await open(context, context.scaled(200_000));
  const results: BenchResult[] = [];
  for (const each of localCases(seconds)) results.push(await alternate(context, server, each));
  for (const name of [...Object.values(databases), ...Object.values(templates)])
    await dropDatabase(server, name);
  return {
    measures: results.flatMap(({ measures }) => measures),
    cpu: results.flatMap(({ cpu }) => cpu ?? []),
    failures: results.flatMap(({ failures }) => failures),
  };
};

export const local: BenchCase = { name: "local", quick: true, run: runLocal };
