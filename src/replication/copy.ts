import { to as copyTo } from "pg-copy-streams";
import { readTables } from "../postgres/catalog.ts";
import { identifier, list, literal, qualified } from "../postgres/identifiers.ts";
import type { Column, ReplicatedTable } from "../postgres/table.ts";
import type { TableBatch } from "./batch.ts";
import { insist } from "./insist.ts";
import { mergeBatch, prepareBatch } from "./merge.ts";
import type { MergeSession } from "./merge-session.ts";
import { type Domains, type Mapping, type Misfit, readDomains, RelationMapper } from "./relation.ts";
import { SourceGone, type SourceSession } from "./source-session.ts";
import { CopyTuples, StateBuilder } from "./state-builder.ts";
import type { StateKind } from "./states.ts";
import type { LinkStatus } from "./status.ts";
import type { Sweeper } from "./sweeper.ts";
import type { Target } from "./target.ts";
import type { AgentContext, RegionAddress } from "./wiring.ts";

export interface CopyWork {
  readonly context: AgentContext;
  readonly peer: RegionAddress;
  readonly status: LinkStatus;
  readonly session: MergeSession;
  readonly target: Target;
  readonly source: SourceSession;
  readonly sweeper: Sweeper;
  /** Called once, before the first table is copied. */
  readonly enter: () => void;
}

interface Pending {
  readonly table_name: string;
  /** `own`: states whose version names this peer, or no region of the topology; `full`: all. */
  readonly kind: "own" | "full";
}

/**
 * Copies a peer's states where its stream alone would leave a gap: coregent.table_sync lists the tables. It is a merge
 * like any other, so rows written meanwhile here or there are safe, and after an interruption a table is simply begun
 * again. What the peer commits from now on comes by its slot, which exists already.
 *
 * `own` is enough if every peer is asked: whatever state of a key is the highest in the end, the region that
 * wrote it holds it when it is copied from, or sends it by its stream.
 */
export const copyPending = async (work: CopyWork, signal: AbortSignal): Promise<void> => {
  const pending = await readPending(work);
  if (pending.length === 0) {
    return;
  }
  work.enter();
  const theirs = new Map((await readTables(work.source.client)).map((table) => [table.name, table]));
  const domains = await readDomains(work.source.client);
  try {
    const copies = pending.map(
      (entry) => new TableCopy(work, { entry, theirs: theirs.get(entry.table_name), domains, signal }),
    );
    const fitting: TableCopy[] = [];
    for (const copy of copies) {
      if (await copy.fits()) {
        fitting.push(copy);
      }
    }
    await countAll(work, fitting);
    for (const copy of fitting) {
      signal.throwIfAborted();
      await copy.run();
    }
  } finally {
    work.status.resync = null;
  }
};

/**
 * All are counted before the first is copied, so that whoever watches can tell how long it will take; and by one
 * statement, as the peer is far.
 */
const countAll = async ({ source }: CopyWork, copies: readonly TableCopy[]): Promise<void> => {
  if (copies.length === 0) {
    return;
  }
  const { rows } = await source.client.query<{ total: string }>(
    copies.map((copy, index) => `SELECT ${index} AS index, ${copy.countSql()} AS total`).join(" UNION ALL ") +
      " ORDER BY index",
  );
  for (const [index, copy] of copies.entries()) {
    await copy.expect(Number(rows[index]?.total ?? 0));
  }
};

const readPending = async ({ session, peer }: CopyWork): Promise<Pending[]> => {
  const { rows } = await session.query<{ table_name: string; kind: "own" | "full" }>(
    `SELECT table_name, kind FROM coregent.table_sync WHERE origin = $1 ORDER BY table_name COLLATE "C"`,
    [peer.id],
  );
  return rows;
};

interface CopyParts {
  readonly entry: Pending;
  /** The table as the peer has it; undefined: it is not replicated there. */
  readonly theirs: ReplicatedTable | undefined;
  /** The peer's. */
  readonly domains: Domains;
  readonly signal: AbortSignal;
}

class TableCopy {
  readonly #work: CopyWork;
  readonly #parts: CopyParts;
  #rowsDone = 0;
  #rowsTotal = 0;
  /** How the peer's rows and tombstones become ours; empty where they do not fit. */
  #mappings: readonly Mapping[] = [];

  constructor(work: CopyWork, parts: CopyParts) {
    this.#work = work;
    this.#parts = parts;
  }

  /** Whether the peer's table fits ours; if not, that is noted. */
  async fits(): Promise<boolean> {
    const { theirs } = this.#parts;
    if (theirs === undefined) {
      // Nothing of it can be had. When the peer takes the table up, its changes come by the stream, or it is copied.
      await this.#misfit("it is not a replicated table at the peer");
      return false;
    }
    const mappings: Mapping[] = [];
    for (const kind of ["row", "tombstone"] as const) {
      const mapping = this.#map(theirs, kind);
      if (!mapping.fits) {
        await this.#misfit(mapping.reason);
        return false;
      }
      mappings.push(mapping);
    }
    this.#mappings = mappings;
    return true;
  }

  async run(): Promise<void> {
    const { context, status, peer } = this.#work;
    const { entry, theirs } = this.#parts;
    if (theirs === undefined) {
      return;
    }
    const rows = this.#rowsTotal;
    this.#tell();
    context.logger.info({ table: theirs.name, kind: entry.kind, rows, peer: peer.name }, "copying states");
    if (rows > 0) {
      for (const mapping of this.#mappings) {
        await this.#copy(theirs, mapping);
      }
    }
    status.misfits.delete(theirs.name);
    // Asked for again meanwhile: then it has no start, and stays.
    await this.#work.session.query(
      `DELETE FROM coregent.table_sync
        WHERE origin = $1 AND table_name = $2 AND kind = $3 AND started_at IS NOT NULL`,
      [peer.id, theirs.name, entry.kind],
    );
  }

  #tell(): void {
    this.#work.status.resync = {
      table: this.#parts.entry.table_name,
      rowsDone: this.#rowsDone,
      rowsTotal: this.#rowsTotal,
    };
  }

  #map(theirs: ReplicatedTable, kind: StateKind): Mapping | Misfit {
    const { target } = this.#work;
    const columns = sourceColumns(theirs, kind);
    // As the stream does, a domain is described by the name of its base type.
    const types = new Map(
      columns.map(({ typeOid, typeSchema, typeName }) => [
        typeOid,
        this.#parts.domains.get(typeOid) ?? `${typeSchema}.${typeName}`,
      ]),
    );
    return new RelationMapper(target.tables, target).map(
      {
        schema: kind === "row" ? theirs.schema : "coregent",
        name: kind === "row" ? theirs.table : theirs.tombstone,
        replicaIdentity: "d",
        columns: columns.map(({ name, typeOid }) => ({ name, typeOid, identity: theirs.key.includes(name) })),
      },
      types,
    );
  }

  /** Counts the states to come, at the peer. What it commits later comes by the stream. */
  countSql(): string {
    const { theirs } = this.#parts;
    const counts = (["row", "tombstone"] as const).map((kind) =>
      theirs === undefined ? "0" : `(SELECT count(*) FROM ${relation(theirs, kind)} ${this.#filter()})`,
    );
    return `(${counts.join(" + ")})::text`;
  }

  async expect(rowsTotal: number): Promise<void> {
    const { session, peer } = this.#work;
    this.#rowsTotal = rowsTotal;
    await session.query(
      `UPDATE coregent.table_sync
          SET rows_done = 0, rows_total = $3, misfit = NULL, started_at = now(), updated_at = now()
        WHERE origin = $1 AND table_name = $2`,
      [peer.id, this.#parts.entry.table_name, rowsTotal],
    );
  }

  async #copy(theirs: ReplicatedTable, mapping: Mapping): Promise<void> {
    const { source, session, target, context } = this.#work;
    const { limits } = context;
    const columns = sourceColumns(theirs, mapping.layout.kind);
    const fields =
      target.format === "binary"
        ? list(columns.map((column) => column.name))
        : columns.map((column) => `${identifier(column.name)}::text`).join(", ");
    const text = `COPY (SELECT ${fields} FROM ${relation(theirs, mapping.layout.kind)} ${this.#filter()})
                    TO STDOUT (FORMAT binary)`;
    const { table, kind: stateKind } = mapping.layout;
    const names = columns.map((column) => column.name);
    const states = new StateBuilder(table, { kind: stateKind, format: target.format, columns: names });
    const tuples = new CopyTuples();
    const received = source.client.query(copyTo(text));
    // While our server merges a piece, the next is received.
    let merging: Promise<void> = Promise.resolve();
    const merge = async (): Promise<void> => {
      const { count } = states;
      const part = states.take();
      prepareBatch(session, { tables: [part] }, { absent: true });
      await merging;
      merging = this.#merge(part, count);
      // The next piece may be long in coming: what fails ends the copy.
      merging.catch((error: Error) => received.destroy(error));
    };
    try {
      for await (const chunk of received as AsyncIterable<Buffer>) {
        tuples.push(chunk, (tuple) => states.addCopied(tuple));
        const isFull = states.count >= limits.copyPieceRows || states.bytes >= limits.maxBatchBytes;
        if (isFull) await merge();
      }
      if (!tuples.complete) {
        throw new SourceGone();
      }
      if (states.count > 0) await merge();
      await merging;
    } finally {
      // Whoever has the session next finds no merge in it.
      await merging.catch(() => undefined);
    }
  }

  /** `count`: of the peer's rows, which it is made of. */
  async #merge(part: TableBatch, count: number): Promise<void> {
    const { session, peer, status, sweeper } = this.#work;
    this.#parts.signal.throwIfAborted();
    const report = await insist(this.#work, this.#parts.signal, (careful) =>
      session.transaction(async () => {
        const merged = await mergeBatch(session, { tables: [part] }, { careful, absent: true });
        await session.query(
          `UPDATE coregent.table_sync SET rows_done = rows_done + $3, updated_at = now()
            WHERE origin = $1 AND table_name = $2`,
          [peer.id, part.table.name, count],
        );
        return merged;
      }),
    );
    this.#rowsDone += count;
    this.#tell();
    status.rows += report.rowsMerged;
    status.tombstones += report.tombstonesMerged;
    for (const keys of report.sweepLater) {
      sweeper.add(keys);
    }
  }

  async #misfit(reason: string): Promise<void> {
    const { session, peer, status } = this.#work;
    const name = this.#parts.entry.table_name;
    status.misfits.set(name, reason);
    await session.query(
      `UPDATE coregent.table_sync SET misfit = $3, started_at = coalesce(started_at, now()), updated_at = now()
        WHERE origin = $1 AND table_name = $2`,
      [peer.id, name, reason],
    );
  }

  /** Versions name the region that wrote them in their lowest ten bits. */
  #filter(): string {
    if (this.#parts.entry.kind === "full") {
      return "";
    }
    const others = this.#work.context.topology().regionIds.filter((id) => id !== this.#work.peer.id);
    return others.length === 0
      ? ""
      : `WHERE (cg_version & 1023) <> ALL (${literal(`{${others.join()}}`)}::bigint[])`;
  }
}

const relation = (table: ReplicatedTable, kind: StateKind): string =>
  kind === "row" ? qualified(table.schema, table.table) : qualified("coregent", table.tombstone);

const sourceColumns = (table: ReplicatedTable, kind: StateKind): readonly Column[] =>
  (kind === "row" ? table.columns : table.tombstoneColumns).filter((column) => !column.generated);
