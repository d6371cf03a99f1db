import type { Batch, TableBatch } from "./batch.ts";
import type { StateSet } from "./states.ts";

/** Whether two batches have states of one key. */
export const overlap = (a: Pick<Batch, "tables">, b: Pick<Batch, "tables">): boolean => {
  const tables = new Map(b.tables.map((part) => [part.table.name, part]));
  return a.tables.some((part) => {
    const other = tables.get(part.table.name);
    return other !== undefined && setsOf(part).some((one) => setsOf(other).some((two) => share(one, two)));
  });
};

const setsOf = ({ rows, partial, tombstones }: TableBatch): StateSet[] => [rows, ...partial, tombstones];

/** Both ascend: they are gone through side by side. */
const share = (a: StateSet, b: StateSet): boolean => {
  if (a.count === 0 || b.count === 0 || apart(a, b) || apart(b, a)) return false;
  for (let i = 0, j = 0; i < a.count && j < b.count;) {
    const order = compareKeys(a, i, b, j);
    if (order === 0) return true;
    if (order < 0) i += 1;
    else j += 1;
  }
  return false;
};

/** Whether all of `a` lies before all of `b`, as with keys that ascend in time. */
const apart = (a: StateSet, b: StateSet): boolean => compareKeys(a, a.count - 1, b, 0) < 0;

const compareKeys = (a: StateSet, i: number, b: StateSet, j: number): number => {
  const order = a.keyPrefix(i) - b.keyPrefix(j);
  if (order !== 0) return order;
  const [one, two] = [a.keyId(i), b.keyId(j)];
  return one === two ? 0 : one < two ? -1 : 1;
};
