import type { TestRegion } from "../../src/testing/index.ts";
import { compareKeyStates, place, type KeyState } from "./history.ts";
import { Marks, type Mark } from "./marks.ts";
import { pause, Session } from "./session.ts";
import { contended, type Table } from "./tables.ts";
import { tornSql, writerOf, type Torn } from "./whole.ts";
import { stateOf, statesSql, type StateRow, type Tombstones } from "./writers.ts";

/**
 * Notes in each region which peers its tables were ever copied from: an ALWAYS trigger, so that the merge sessions,
 * in the replica role, fire it too. In the transaction that asks for the copy, so no reader sees what was copied before.
 */
export const probeSql = `
  CREATE SCHEMA IF NOT EXISTS probe;
  CREATE TABLE IF NOT EXISTS probe.copy (id bigint GENERATED ALWAYS AS IDENTITY, origin int, what text, at timestamptz DEFAULT clock_timestamp());
  CREATE OR REPLACE FUNCTION probe.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
  BEGIN
    INSERT INTO probe.copy (origin, what)
    VALUES (coalesce(NEW.origin, OLD.origin), concat_ws(' ', TG_OP, coalesce(NEW.kind, OLD.kind), coalesce(NEW.table_name, OLD.table_name), coalesce(NEW.reason, OLD.reason)));
    RETURN NULL;
  END $$;
  DROP TRIGGER IF EXISTS probe ON coregent.table_sync;
  CREATE TRIGGER probe AFTER INSERT OR UPDATE OR DELETE ON coregent.table_sync FOR EACH ROW EXECUTE FUNCTION probe.note();
  ALTER TABLE coregent.table_sync ENABLE ALWAYS TRIGGER probe;`;

/**
 * A copy from a peer that is under way, or through but not yet overtaken by the peer's stream: its tables are of
 * different moments until the stream has passed the last of them.
 */
interface Copying {
  /** Others' states were copied too, so all copies must have ended. */
  readonly full: boolean;
  /** The peer's WAL position at or after the end of the copy; null: it has not ended. */
  until: string | null;
}

export interface WatchParts {
  readonly region: TestRegion;
  /** All regions that there may be in the end. */
  readonly regions: () => readonly TestRegion[];
  readonly prefix: string;
  readonly tombstones: Tombstones;
  readonly problem: (text: string) => void;
  readonly stop: AbortSignal;
}

/** Reads a region throughout: that states never go down, and that transactions are seen whole. */
export class Watcher {
  readonly #parts: WatchParts;
  readonly #marks: Marks;
  readonly #copying = new Map<string, Copying>();
  /** Regions whose states were copied here, and what was said. */
  readonly copies = new Map<string, string>();
  #lastCopy: string | null = null;
  #crashes = 0;
  polls = 0;

  /** @param parts `joining`: all of it is being copied from everybody */
  constructor(parts: WatchParts, options: { readonly joining: boolean }) {
    this.#parts = parts;
    this.#marks = new Marks(parts.region.id);
    if (options.joining) this.#allCopied();
  }

  /** The region's server was killed, and what it had not made durable is gone. Call it while the server is down. */
  crashed(): void {
    this.#crashes += 1;
    this.#marks.crashed();
  }

  async run(): Promise<void> {
    await Promise.all([this.#watchGroups(), this.#watchStates()]);
  }

  /** What is not as high in the end as it was seen to be. */
  settle(held: ReadonlyMap<string, KeyState>): string[] {
    return this.#marks.settle(held).map((line) => `${this.#parts.region.name}: ${line}`);
  }

  async #watchStates(): Promise<void> {
    const { region, prefix, tombstones, problem, stop } = this.#parts;
    const session = new Session(region, { problem });
    const sql = allStatesSql(tombstones, prefix);
    const described = new Set<string>();
    while (!stop.aborted) {
      const crashes = this.#crashes;
      const rows = await session.read<StateRow>(sql);
      // An answer from before a crash, read after it, tells of what the crash has taken away.
      const down = rows === null || crashes !== this.#crashes ? [] : this.#marks.observe(highest(rows));
      for (const line of down) {
        if (described.size >= 5 || described.has(line)) continue;
        described.add(line);
        problem(`${region.name}: ${line}`);
      }
      await pause(60);
    }
    await session.end();
  }

  async #watchGroups(): Promise<void> {
    const { region, prefix, problem, stop } = this.#parts;
    const session = new Session(region, { problem });
    const seen = new Set<string>();
    const sql = `SELECT
      coalesce((SELECT jsonb_object_agg(grp, what) FROM (${tornSql(prefix)}) AS t), '{}') AS torn,
      coalesce((SELECT jsonb_agg(DISTINCT origin) FROM coregent.table_sync), '[]') AS origins,
      coalesce((SELECT jsonb_object_agg(origin, what) FROM probe.copy WHERE id > $1), '{}') AS copied,
      EXISTS (SELECT FROM probe.copy WHERE id > $1 AND what LIKE '% full %') AS full,
      (SELECT max(id)::text FROM probe.copy) AS last,
      coalesce((SELECT jsonb_object_agg(origin, lsn::text) FROM coregent.progress), '{}') AS progress`;
    while (!stop.aborted) {
      const rows = await session.read<GroupAnswer>(sql, [this.#lastCopy ?? 0]);
      const [answer] = rows ?? [];
      if (answer !== undefined) {
        this.polls += 1;
        await this.#followCopies(answer);
        for (const [grp, what] of Object.entries(answer.torn)) {
          const writer = writerOf(grp, prefix);
          if (this.#copying.has(writer) || seen.has(grp)) continue;
          seen.add(grp);
          problem(`${region.name} shows a transaction of ${writer} in part: group ${grp}: ${what}`);
        }
      }
      await pause(15);
    }
    await session.end();
  }

  /** To be called once before the first poll: what was copied before does not count. */
  async begin(): Promise<void> {
    const [row] = await this.#parts.region.sql<{ last: string | null }>(
      "SELECT max(id)::text AS last FROM probe.copy",
    );
    this.#lastCopy = row?.last ?? null;
  }

  #allCopied(): void {
    const { region, regions } = this.#parts;
    for (const { name } of regions()) {
      if (name !== region.name) this.#copying.set(name, { full: true, until: null });
    }
  }

  async #followCopies({ origins, copied, full, last, progress }: GroupAnswer): Promise<void> {
    const regions = this.#parts.regions();
    this.#lastCopy = last;
    for (const [origin, what] of Object.entries(copied)) {
      const name = regions.find(({ id }) => id === Number(origin))?.name ?? origin;
      this.copies.set(name, what);
      this.#copying.set(name, { full: false, until: null });
    }
    if (full) this.#allCopied();
    for (const [name, copying] of this.#copying) {
      const source = regions.find((region) => region.name === name);
      if (source === undefined || origins.includes(source.id)) continue;
      if (copying.full && origins.length > 0) continue;
      if (copying.until === null) {
        const rows = await source
          .sql<{ lsn: string }>("SELECT pg_current_wal_lsn()::text AS lsn")
          .catch(() => []);
        copying.until = rows[0]?.lsn ?? null;
      } else if (lsnOf(progress[source.id] ?? "0/0") >= lsnOf(copying.until)) this.#copying.delete(name);
    }
  }
}

interface GroupAnswer {
  readonly torn: Readonly<Record<Torn["grp"], Torn["what"]>>;
  readonly origins: readonly number[];
  readonly copied: Readonly<Record<string, string>>;
  readonly full: boolean;
  readonly last: string | null;
  readonly progress: Readonly<Record<string, string>>;
}

const lsnOf = (text: string): bigint => {
  const [high = "0", low = "0"] = text.split("/");
  return (BigInt(`0x${high}`) << 32n) + BigInt(`0x${low}`);
};

export const allStatesSql = (
  tombstones: Tombstones,
  prefix: string,
  tables: readonly Table[] = contended,
): string =>
  tables
    .map((table) => statesSql(table, { tombstone: tombstones.get(table.name) ?? "", prefix }))
    .join(" UNION ALL ");

/** The highest state of each key, over rows and tombstones. */
export const highest = (rows: readonly StateRow[]): Map<string, KeyState> => {
  const states = new Map<string, KeyState & Mark>();
  for (const row of rows) {
    const at = place(row.table, row.key);
    const state = stateOf(row);
    const other = states.get(at);
    if (other === undefined || compareKeyStates(state, other) > 0) states.set(at, state);
  }
  return states;
};
