import type { ClientBase, QueryConfig } from "pg";

/** Positions in a server's WAL: bigints here, `16/B374D848` in SQL. */
export const parseLsn = (text: string): bigint => {
  const match = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/.exec(text);
  if (match === null) {
    throw new Error(`not a WAL position: ${text}`);
  }
  return (BigInt(`0x${match[1]}`) << 32n) | BigInt(`0x${match[2]}`);
};

export const formatLsn = (lsn: bigint): string =>
  `${(lsn >> 32n).toString(16).toUpperCase()}/${(lsn & 0xffff_ffffn).toString(16).toUpperCase()}`;

/** The position that a query gives as `lsn`, in text. */
export const readLsn = async (client: ClientBase, query: string | QueryConfig): Promise<bigint> => {
  const { rows } = await client.query<{ lsn: string }>(query);
  return parseLsn(rows[0]?.lsn ?? "0/0");
};
