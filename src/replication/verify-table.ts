import type { Clock } from "../clock.ts";
import type { ReplicatedTable } from "../postgres/table.ts";
import {
  agrees,
  allArrived,
  differingBuckets,
  differingHashes,
  groupBuckets,
  judge,
  laggingRegions,
  writtenBy,
  type Merged,
  type Reading,
} from "./verify-judge.ts";
import type { Progress, RegionReader, TableScan } from "./verify-region.ts";
import type { Difference, DifferenceKind, HeldState } from "./verify-report.ts";
import type { ScanShape } from "./verify-sql.ts";

/** One table, as it is compared in the regions that have it. */
export interface ComparedTable {
  readonly name: string;
  readonly readers: readonly RegionReader[];
  /** By region name: the tables may have their columns in another order. */
  readonly shapes: ReadonlyMap<string, ScanShape>;
  readonly missingIn: readonly string[];
  readonly notCompared: readonly string[];
}

/** Rows that are held here at once, for each region, while differing buckets are narrowed down. */
const maxBucketRows = 100_000;
/** Keys of one table that are looked at, in one pass. */
export const maxKeys = 10_000;

const comparable = (column: ReplicatedTable["columns"][number]): boolean =>
  !column.generated && !/^cg_(base|version|prev|seen)$/.test(column.name);

/** How a table is compared, given the regions which may have it. */
export const compareTable = (
  name: string,
  readers: readonly RegionReader[],
  deep: boolean,
): ComparedTable => {
  const all = readers.flatMap((reader) => {
    const table = reader.tables.get(name);
    return table === undefined ? [] : [{ reader, table }];
  });
  // Another key makes it another table: there is nothing to compare by.
  const key = all[0]?.table.key.join("\0");
  const there = all.filter(({ table }) => table.key.join("\0") === key);
  const typeOf = (table: ReplicatedTable, column: string): string | undefined =>
    table.columns.find((other) => other.name === column)?.type;
  const alike = (column: string): boolean => {
    const type = there[0] && typeOf(there[0].table, column);
    return type !== undefined && there.every(({ table }) => typeOf(table, column) === type);
  };
  const columns = [
    ...new Set(there.flatMap(({ table }) => table.columns.filter(comparable).map((column) => column.name))),
  ].toSorted();
  const hashing = (there[0]?.table.key ?? []).every(alike) ? "native" : "text";
  const content = deep ? columns.filter(alike) : null;
  return {
    name,
    readers: there.map(({ reader }) => reader),
    shapes: new Map(there.map(({ reader, table }) => [reader.region.name, { table, hashing, content }])),
    missingIn: readers
      .filter((reader) => !there.some((one) => one.reader === reader))
      .map((reader) => reader.region.name),
    notCompared: deep ? columns.filter((column) => !alike(column)) : [],
  };
};

const shapeOf = (table: ComparedTable, reader: RegionReader): ScanShape => {
  const shape = table.shapes.get(reader.region.name);
  if (shape === undefined) throw new Error(`${table.name} is not in ${reader.region.name}`);
  return shape;
};

export type Scans = ReadonlyMap<string, TableScan>;

export const scanTable = async (table: ComparedTable, reader: RegionReader): Promise<TableScan> =>
  await reader.scan(shapeOf(table, reader), maxKeys);

export interface Suspects {
  readonly keys: readonly string[];
  /** Not all that differs was looked at. */
  readonly more: boolean;
}

/** Narrows what differs between the scans down to keys; memory and the number of keys are bounded. */
export const findSuspects = async (table: ComparedTable, scans: Scans): Promise<Suspects> => {
  const own = table.readers.map((reader) => scans.get(reader.region.name));
  const keys = new Set(own.flatMap((scan) => scan?.suspects ?? []));
  const differing = differingBuckets(own.map((scan) => scan?.buckets ?? new Map()));
  const hashes = new Set<string>();
  let more = false;
  for (const buckets of groupBuckets(differing, maxBucketRows)) {
    if (hashes.size >= maxKeys) {
      more = true;
      break;
    }
    const rows = await Promise.all(
      table.readers.map((reader) => reader.bucketRows(shapeOf(table, reader), buckets)),
    );
    const found = differingHashes(rows, maxKeys - hashes.size);
    for (const hash of found) hashes.add(hash);
    if (hashes.size >= maxKeys) more = true;
  }
  if (hashes.size > 0) {
    const lists = await Promise.all(
      table.readers.map((reader) => reader.keysOfHashes(shapeOf(table, reader), [...hashes])),
    );
    for (const key of lists.flat()) keys.add(key);
  }
  return { keys: [...keys], more };
};

/** Reads the keys in all regions at about the same time. */
export const readKeys = async (
  table: ComparedTable,
  keys: readonly string[],
): Promise<Map<string, Reading>> => {
  const byRegion = await Promise.all(
    table.readers.map(
      async (reader) => [reader.region.name, await reader.states(shapeOf(table, reader), keys)] as const,
    ),
  );
  return new Map(
    keys.map((key) => [
      key,
      new Map(
        byRegion.flatMap(([region, states]): [string, HeldState][] => {
          const state = states.get(key);
          return state === undefined ? [] : [[region, state]];
        }),
      ),
    ]),
  );
};

export interface Settled {
  readonly settled: number;
  readonly counts: Readonly<Record<DifferenceKind, number>>;
  readonly differences: readonly Difference[];
}

/** No waiting mends these. */
const settledKinds: ReadonlySet<DifferenceKind> = new Set(["content", "quarantined"]);

export interface SettleOptions {
  readonly clock: Clock;
  /** On the clock's monotonic time. */
  readonly deadline: number;
  readonly limit: number;
  readonly signal: AbortSignal | undefined;
  readonly resyncing: boolean;
  readonly all: readonly RegionReader[];
  /** The suspects have been read once. */
  readonly onRead: () => void;
}

/** Once all has arrived, a region may still have rows to sweep that met their tombstones just then. */
const sweepGraceMs = 1_000;

/**
 * Reads the suspects again and again until they are settled, or all that may have been on its way has arrived, or the
 * time is over; and judges what is left.
 */
export const settle = async (
  table: ComparedTable,
  suspects: readonly string[],
  options: SettleOptions,
): Promise<Settled> => {
  const { clock, deadline, signal, resyncing } = options;
  const first = await readKeys(table, suspects);
  const marks = new Map<number, Progress>(
    await Promise.all(
      options.all.map(async (reader) => [reader.region.id, await reader.position()] as const),
    ),
  );
  options.onRead();
  let last = first;
  let lagging = new Set<string>();
  let arrivedMs: number | null = null;
  const ids = new Set(options.all.map((reader) => reader.region.id));
  const open = new Map<string, DifferenceKind>();
  for (let waitMs = 50; ; waitMs = Math.min(500, waitMs * 2)) {
    open.clear();
    for (const [key, reading] of last) {
      const kind = judge({ first: first.get(key) ?? reading, last: reading, lagging, resyncing });
      if (kind !== null) open.set(key, kind);
    }
    const waiting = [...open.values()].some((kind) => !settledKinds.has(kind));
    // What has not come by now, and was written by regions whose writes have all come, does not come.
    const over =
      clock.monotonic() >= deadline ||
      (arrivedMs !== null &&
        clock.monotonic() >= arrivedMs + sweepGraceMs &&
        [...open].every(
          ([key, kind]) => settledKinds.has(kind) || (kind === "states" && writtenBy(last.get(key)!, ids)),
        ));
    if (over && lagging.size === 0 && waiting) {
      lagging = laggingRegions(marks, await readMerged(options.all));
      if (lagging.size > 0) continue;
    }
    if (!waiting || over) break;
    if (arrivedMs === null && allArrived(marks, await readMerged(options.all))) {
      arrivedMs = clock.monotonic();
    }
    await clock.sleep(Math.min(waitMs, Math.max(1, deadline - clock.monotonic())), signal);
    last = await readKeys(table, [...open.keys()]);
  }
  return {
    settled: [...first].filter(([key, reading]) => !open.has(key) && !agrees(reading)).length,
    counts: countKinds(open.values()),
    differences: [...open].slice(0, options.limit).map(([key, kind]) => ({
      key,
      kind,
      states: Object.fromEntries(last.get(key) ?? []),
    })),
  };
};

const readMerged = async (readers: readonly RegionReader[]): Promise<Merged> =>
  new Map(
    await Promise.all(
      readers.map(
        async (reader) =>
          [reader.region.name, { id: reader.region.id, progress: await reader.progress() }] as const,
      ),
    ),
  );

export const countKinds = (kinds: Iterable<DifferenceKind>): Record<DifferenceKind, number> => {
  const counts = { states: 0, content: 0, inFlight: 0, moving: 0, quarantined: 0, resyncing: 0 };
  for (const kind of kinds) counts[kind] += 1;
  return counts;
};
