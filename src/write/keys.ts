import { randomFillSync } from "node:crypto";
import { monotonicFactory } from "ulid";
import { type Catalog, type CatalogTable, findTable } from "./catalog.ts";
import type { Operation, RowValues } from "./operation.ts";

/**
 * Keys for rows that come without one, made before a master is chosen: whichever master takes the row, at whichever
 * attempt, it is the same row.
 */

/** 128 bits, as columns of either kind hold them. */
export interface RowKey {
  readonly uuid: string;
  readonly ulid: string;
}

/** Makes the key of a row from its place in the request: counted over all operations' rows, from 0. */
export type MakeKey = (ordinal: number) => RowKey;

const randomPool = Buffer.alloc(8 * 1024);
let randomLeft = 0;

/** In [0, 1), each character of a ULID takes one. One at a time from the system, they would take longer than the rest of a write. */
const random = (): number => {
  if (randomLeft === 0) {
    randomFillSync(randomPool);
    randomLeft = randomPool.length;
  }
  randomLeft -= 1;
  return (randomPool[randomLeft] ?? 0) / 256;
};

const nextUlid = monotonicFactory(random);

/** In order of creation, within a millisecond too. Where an idempotency key is given, derived-key.ts makes them instead. */
export const freshKeys =
  (nowMs: () => number): MakeKey =>
  () => {
    const ulid = nextUlid(nowMs());
    return {
      ulid,
      get uuid() {
        return uuidOf(ulid);
      },
    };
  };

const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/** A ULID's 128 bits as PostgreSQL writes a uuid: 48 of time in 10 characters, then twice 40 in 8. */
const uuidOf = (ulid: string): string => {
  const hex =
    bits(ulid.slice(0, 10)).toString(16).padStart(12, "0") +
    bits(ulid.slice(10, 18)).toString(16).padStart(10, "0") +
    bits(ulid.slice(18)).toString(16).padStart(10, "0");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
};

/** At most 50 of them, which a number holds. */
const bits = (characters: string): number => {
  let value = 0;
  for (const character of characters) value = value * 32 + alphabet.indexOf(character);
  return value;
};

/** Defaults whose purpose is a key that is new everywhere: a ULID from here serves it. */
const generators =
  /^\(?(?:[\w"]+\.)?"?(?:ulid|ulid_uuid|gen_random_uuid|uuidv4|uuidv7|uuid_generate_v\w+)"?\(/;

/** How a ULID stands in the table's key; null where the database makes the key, or the caller has to. */
const keyForm = (table: CatalogTable): ((key: RowKey) => string) | null => {
  const [column] = table.key;
  if (column === undefined || table.key.length > 1 || !column.writable || column.isIdentity) return null;
  if (column.default !== null && !generators.test(column.default)) return null;
  if (column.shape !== "scalar") return null;
  if (column.type === "uuid") return ({ uuid }) => uuid;
  const takesText = ["text", "varchar", "bpchar"].includes(column.type);
  return takesText && (column.maxLength === null || column.maxLength >= 26) ? ({ ulid }) => ulid : null;
};

/**
 * Inserts with the keys that they lack, where the table's key is one column that can hold a ULID (uuid, text, char(26)).
 * @throws Problem `table-unknown`
 */
export const withKeys = (
  operations: readonly Operation[],
  catalog: Catalog,
  makeKey: MakeKey,
): readonly Operation[] => {
  let ordinal = 0;
  return operations.map((operation) => {
    if (operation.kind !== "insert") return operation;
    const first = ordinal;
    ordinal += operation.rows.length;
    const table = findTable(catalog, operation.table);
    const form = keyForm(table);
    const [column] = table.key;
    if (form === null || column === undefined) return operation;
    const rows = operation.rows.map((row, at): RowValues =>
      row.has(column.name) ? row : new Map([[column.name, form(makeKey(first + at))], ...row]),
    );
    return { ...operation, rows, keysMade: !operation.rows.some((row) => row.has(column.name)) };
  });
};
