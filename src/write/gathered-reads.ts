import type { Clock } from "../clock.ts";
import { type Catalog, type CatalogTable, findTable } from "./catalog.ts";
import { isOfAll } from "./commit.ts";
import { together } from "./connections.ts";
import { Gatherer } from "./gather.ts";
import type { Master } from "./master.ts";
import type { Key, OperationResult, SelectOperation } from "./operation.ts";
import { type Position, readPositionBy } from "./position.ts";
import { found, named, type NamedStatement, resultOf, runNamed } from "./result-rows.ts";
import { isPlainKey, rowsByKeys, type RowsByKeys } from "./rows-by-keys.ts";
import { rowNotFound } from "./run-operations.ts";

/** What one read at one master came to. */
export interface Read {
  readonly results: readonly OperationResult[];
  /** Read with the rows, or after them. */
  readonly position: Position;
}

interface RowWanted {
  readonly key: Key;
  readonly bytes: number;
  readonly signal: AbortSignal;
  readonly alone: () => Promise<Read>;
}

/** null: there is no row with this key. */
type RowRead = Read | null;

const maxKeys = 64;
const maxBytes = 1024 * 1024;

/** Rows of one form, at one master. */
interface Form {
  readonly master: Master;
  readonly table: CatalogTable;
  readonly statement: NamedStatement;
  readonly plan: RowsByKeys;
  readonly width: Width;
}

/**
 * Reads by key of concurrent requests, of the same columns and at one master, as one statement.
 * docs/decisions/0013-gathering.md
 */
export class GatheredReads {
  readonly #clock: Clock;
  /** A plan is that of one master's table. */
  readonly #forms = new WeakMap<RowsByKeys, Gatherer<RowWanted, RowRead>>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** @throws as `alone`; Problem `row-not-found` */
  async read(
    at: { readonly master: Master; readonly catalog: Catalog },
    operations: readonly SelectOperation[],
    asked: Pick<RowWanted, "signal" | "alone">,
  ): Promise<Read> {
    const [operation] = operations;
    if (operations.length !== 1 || operation === undefined || operation.key === null) return asked.alone();
    const { key, columns } = operation;
    const table = findTable(at.catalog, operation.table);
    const plan = isPlainKey(table, key) ? rowsByKeys(table, columns) : null;
    const gatherer = plan === null ? null : this.#gatherer(at, table, plan);
    if (gatherer === null) return asked.alone();
    const bytes = key.reduce((sum, part) => sum + part.length, 0);
    const read = await gatherer.ask({ ...asked, key, bytes });
    if (read === null) throw rowNotFound(table, at.catalog.region).with({ region: at.catalog.region });
    return read;
  }

  #gatherer(
    { master, catalog }: { readonly master: Master; readonly catalog: Catalog },
    table: CatalogTable,
    plan: RowsByKeys,
  ): Gatherer<RowWanted, RowRead> | null {
    const known = this.#forms.get(plan);
    if (known !== undefined) return known;
    const statement = named(plan, catalog);
    if (statement === null) return null;
    const width = new Width();
    const form: Form = { master, table, statement, plan, width };
    const gatherer = new Gatherer<RowWanted, RowRead>({
      alone: async (row) => width.seen(await row.alone()),
      together: (rows) => readAll(form, rows),
      concernsAll: isOfAll,
      sleep: this.#clock.sleep,
      bounds: { maxUnderWay: 2, maxWaitMs: 5, maxRequests: () => width.maxRows, maxBytes },
    });
    this.#forms.set(plan, gatherer);
    return gatherer;
  }
}

const readAll = async (form: Form, rows: readonly RowWanted[]): Promise<RowRead[]> => {
  const { master, table, statement, plan, width } = form;
  const values = plan.values(rows.map(({ key }) => key));
  const [texts, position] = await master.session(
    (client) =>
      Promise.all(
        together(client, () => [runNamed(client, statement, values), readPositionBy(client)] as const),
      ),
    new AbortController().signal,
    rows.length,
  );
  const reads: RowRead[] = rows.map(() => null);
  for (const each of texts) {
    const results = [resultOf(table, [found(statement.shape, each)])];
    reads[Number(each[plan.ordinal]) - 1] = width.seen({ results, position });
  }
  return reads;
};

/** How long the rows are: so many are read at once that they are about `maxBytes` together. */
class Width {
  #characters = 0;

  get maxRows(): number {
    return Math.max(1, Math.min(maxKeys, Math.floor(maxBytes / (this.#characters + 1))));
  }

  /** The longest of the last hundred or so. */
  seen(read: Read): Read {
    const length = read.results[0]?.rows[0]?.length ?? 0;
    this.#characters = Math.max(length, this.#characters * 0.99);
    return read;
  }
}
