import { pino } from "pino";
import type { Topology } from "../../regions/topology.ts";
import type { WriterSettings } from "../../regions/writer-settings.ts";
import { systemClock } from "../../src/clock.ts";
import { startFaultProxy, type FaultProxy } from "../../src/embedded/fault-proxy.ts";
import { postgresUrl } from "../../regions/secret.ts";
import { Masters, type MastersOptions } from "../../src/write/masters.ts";
import type { RegionVerdict } from "../../regions/route.ts";
import { RegionalWriter } from "../../src/write/writer.ts";
import { Regions } from "../replication/agents.ts";
import { eventually } from "../support/database.ts";

/** Quick enough that a test sees them pass. */
export const quick: Partial<WriterSettings> = {
  probeMs: 50,
  probeTimeoutMs: 500,
  failuresToDown: 2,
  successesToUp: 2,
  calmMs: 100,
};

export const schema = `
CREATE TABLE public.note (id text PRIMARY KEY, body text, home_region text);
CREATE TABLE public.free (id text PRIMARY KEY, body text);
CREATE TABLE public.near (id text PRIMARY KEY, body text, home_region text);`;

/** a, b and c; beside the lines of their agents, each master is reached through a line of its own by writers. */
export class WritingRegions implements AsyncDisposable {
  readonly regions: Regions;
  readonly #lines = new Map<string, FaultProxy>();
  readonly #open: { close: () => Promise<void> }[] = [];

  private constructor(regions: Regions) {
    this.regions = regions;
  }

  /** @param more further tables */
  static async create(more = ""): Promise<WritingRegions> {
    const regions = await Regions.create({
      schema: schema + more,
      regions: { a: 18, b: 17, c: 16 },
      tables: [
        { name: "public.note", owner: "home_region" },
        { name: "public.near", owner: "home_region", route: "nearest" },
      ],
    });
    const made = new WritingRegions(regions);
    for (const name of regions.names) {
      const target = { host: "127.0.0.1", port: Number(new URL(regions.db(name).url).port) };
      made.#lines.set(name, await startFaultProxy({ target, random: Math.random }));
    }
    return made;
  }

  /** The line by which all writers reach a master. */
  line(name: string): FaultProxy {
    const line = this.#lines.get(name);
    if (line === undefined) throw new Error(`no region ${name}`);
    return line;
  }

  topology(settings: Partial<WriterSettings> = {}): Topology {
    const topology = this.regions.topology();
    return {
      ...topology,
      writer: { ...topology.writer, ...quick, ...settings },
      regions: topology.regions.map((region) => {
        const url = new URL(region.postgres.reveal());
        url.port = String(this.line(region.name).port);
        return { ...region, postgres: postgresUrl(url.href) };
      }),
    };
  }

  masters(
    here: string,
    options: Partial<MastersOptions> & { settings?: Partial<WriterSettings> } = {},
  ): Masters {
    const topology = this.topology(options.settings);
    const masters = new Masters({
      here,
      topology: () => topology,
      clock: systemClock(),
      logger: pino({ level: "silent" }),
      ...options,
    });
    const ending = new AbortController();
    const running = masters.run(ending.signal);
    this.#open.push({
      close: async () => {
        ending.abort();
        await Promise.all([running, masters.close()]);
      },
    });
    return masters;
  }

  /** A writer of that region, and what it routed; once its masters are seen like this, all healthy usually. */
  async writer(
    here: string,
    options: Parameters<WritingRegions["masters"]>[1] = {},
    seen: Readonly<Record<string, string>> = { a: "healthy", b: "healthy", c: "healthy" },
  ): Promise<{ writer: RegionalWriter; masters: Masters; routed: RegionVerdict[] }> {
    const masters = this.masters(here, options);
    const routed: RegionVerdict[] = [];
    const topology = this.topology(options.settings);
    const writer = new RegionalWriter({
      masters,
      topology: () => topology,
      clock: systemClock(),
      random: () => 0.5,
      events: {
        routed: (verdict) => routed.push(verdict),
        failedOver: () => undefined,
        read: () => undefined,
      },
    });
    await healths(masters, seen);
    return { writer, masters, routed };
  }

  /** Good lines again, and nobody who writes. */
  async calm(): Promise<void> {
    for (const line of this.#lines.values()) {
      line.heal();
      line.setConditions({ latencyMs: 0 });
    }
    await Promise.all(this.#open.splice(0).map((each) => each.close()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.calm();
    for (const line of this.#lines.values()) await line.close();
    await this.regions[Symbol.asyncDispose]();
  }
}

/** Until the masters are seen like this. */
export const healths = async (
  masters: Masters,
  expected: Readonly<Record<string, string>>,
): Promise<void> => {
  await eventually(
    () => {
      const views = masters.views();
      for (const [name, health] of Object.entries(expected)) {
        const view = views.find((each) => each.name === name);
        if (view?.health !== health) {
          throw new Error(`${name} is ${view?.health} (${view?.healthReason}), not ${health}`);
        }
      }
    },
    { timeoutMs: 15_000, everyMs: 5 },
  );
};

/** Commits in b take a while; gives the moment in which one is under way: of a transaction, or of a statement by itself. */
export const slowCommits = async (
  all: WritingRegions,
  command = "COMMIT",
): Promise<AsyncDisposable & { committing: (count?: number) => Promise<void> }> => {
  const db = all.regions.db("b");
  await db.query(`CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.7); RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT OR UPDATE ON public.note DEFERRABLE INITIALLY DEFERRED
      FOR EACH ROW EXECUTE FUNCTION public.slow()`);
  return {
    committing: async (count = 1) => {
      await eventually(async () => {
        const rows = await db.query(
          `SELECT FROM pg_stat_activity WHERE datname = current_database() AND starts_with(query, $1) AND state = 'active'`,
          [command],
        );
        return rows.length === count;
      });
    },
    [Symbol.asyncDispose]: async () => {
      await db.query("DROP TRIGGER slow ON public.note; DROP FUNCTION public.slow()");
    },
  };
};
