import type { ClientBase, Pool, QueryResultRow } from "pg";
import { systemClock } from "../../src/clock.ts";
import { connectPool } from "../../src/postgres/client.ts";
import { commitWithPosition } from "../../src/write/commit.ts";
import { SlotWatch } from "../../src/write/durable.ts";
import type { MasterPosition } from "../../src/write/positions.ts";
import { Positions, type PositionsOptions } from "../../src/write/positions.ts";
import type { Position } from "../../src/write/position.ts";
import { sessionAfter } from "../../src/write/position.ts";
import { emptySession, type SessionToken, stampAbove } from "../../src/write/session-token.ts";

export interface MasterAddress {
  readonly name: string;
  readonly id: number;
  readonly url: string;
}

export interface MastersOptions {
  readonly cluster: string;
  readonly masters: readonly MasterAddress[];
  readonly quietOf?: PositionsOptions["quietOf"];
  readonly limits?: PositionsOptions["limits"];
}

/** The masters of a cluster with the guarantees of the regional writer, in the plainest way of using them. */
export class Masters implements AsyncDisposable {
  readonly positions: Positions;
  readonly #options: MastersOptions;
  readonly #pools = new Map<string, Pool>();
  readonly #slots = new Map<string, SlotWatch>();

  constructor(options: MastersOptions) {
    this.#options = options;
    const clock = systemClock();
    const members = (): ReadonlySet<number> => new Set(options.masters.map(({ id }) => id));
    this.positions = new Positions({
      clock,
      members,
      quietOf: options.quietOf ?? (() => null),
      ...(options.limits === undefined ? {} : { limits: options.limits }),
    });
    for (const { name, id, url } of options.masters) {
      const pool = connectPool(url, { applicationName: "test writer", maxConnections: 5 });
      this.#pools.set(name, pool);
      this.positions.add(id, pool);
      const pulse = (): void => this.positions.pulse(id);
      this.#slots.set(
        name,
        new SlotWatch(pool, { cluster: options.cluster, region: id, clock, members, pulse }),
      );
    }
  }

  pool(name: string): Pool {
    const pool = this.#pools.get(name);
    if (pool === undefined) throw new Error(`no master ${name}`);
    return pool;
  }

  slots(name: string): SlotWatch {
    const slots = this.#slots.get(name);
    if (slots === undefined) throw new Error(`no master ${name}`);
    return slots;
  }

  id(name: string): number {
    return this.#options.masters.find((master) => master.name === name)?.id ?? 0;
  }

  position(name: string): MasterPosition {
    const position = this.positions.of(this.id(name));
    if (position === null) throw new Error(`no master ${name}`);
    return position;
  }

  /** One transaction at a master, stamped above `version`; `work` gives the highest version it has written. */
  async transaction(
    name: string,
    above: string,
    work: (client: ClientBase) => Promise<bigint>,
  ): Promise<{ readonly position: Position; readonly version: bigint }> {
    const client = await this.pool(name).connect();
    try {
      await client.query("BEGIN");
      await client.query("SELECT set_config('coregent.stamp_above', $1, true)", [above]);
      const version = await work(client);
      const position = await commitWithPosition(client);
      client.release();
      return { position, version };
    } catch (error) {
      client.release(true);
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#pools.values()].map((pool) => pool.end()));
  }
}

interface VersionedRow extends QueryResultRow {
  readonly cg_version: string;
}

const highest = (rows: readonly VersionedRow[]): bigint =>
  rows.reduce((most, row) => (BigInt(row.cg_version) > most ? BigInt(row.cg_version) : most), 0n);

/** The region has not what the token asks for. */
export class Behind extends Error {}

export interface Statement {
  readonly text: string;
  readonly values?: readonly unknown[];
}

/** An application's session: what it does carries the token of what it did before. */
export class Session {
  readonly #masters: Masters;
  token: SessionToken = emptySession;

  constructor(masters: Masters) {
    this.#masters = masters;
  }

  /** @param statement gives cg_version of what it has written */
  async write(master: string, { text, values = [] }: Statement): Promise<Position> {
    const above = stampAbove(this.token, Date.now());
    const { position, version } = await this.#masters.transaction(master, above, async (client) =>
      highest((await client.query<VersionedRow>(text, [...values])).rows),
    );
    this.token = sessionAfter(
      { session: this.token, position, kind: "write", version },
      this.#masters.positions.knowledge,
    );
    return position;
  }

  /**
   * @param statement gives cg_version of what it shows
   * @throws Behind
   */
  async read<R extends VersionedRow>(
    master: string,
    { text, values = [], waitMs = 10_000 }: Statement & { readonly waitMs?: number },
  ): Promise<R[]> {
    const at = this.#masters.position(master);
    const signal = new AbortController().signal;
    const reached = await at.waitFor({ token: this.token, waitMs, signal });
    if (reached === null) throw new Behind(`${master} is behind`);
    const { rows } = await this.#masters.pool(master).query<R>(text, [...values]);
    const position = await at.now();
    this.token = sessionAfter(
      { session: this.token, position, kind: "read", version: highest(rows) },
      this.#masters.positions.knowledge,
    );
    return rows;
  }
}
