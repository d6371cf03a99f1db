import { identifier } from "../postgres/identifiers.ts";

export interface PgoutputOptions {
  readonly publication: string;
  readonly binary: boolean;
  /** Leaves out changes that the source itself merged, if its merge sessions have a replication origin. */
  readonly ownChangesOnly: boolean;
  /**
   * Transactions larger than so many kB are sent as they are decoded, before the source has come to their commit. Default:
   * none are.
   */
  readonly streamingKb?: number | null;
}

/**
 * Version 1 of the protocol sends whole transactions, in the order of their commits. Version 2 sends the large ones in
 * blocks besides.
 */
export const pgoutputOptions = (options: PgoutputOptions): Record<string, string> => ({
  ...(isStreaming(options) ? { proto_version: "2", streaming: "on" } : { proto_version: "1" }),
  publication_names: identifier(options.publication),
  binary: String(options.binary),
  messages: "false",
  origin: options.ownChangesOnly ? "none" : "any",
});

const isStreaming = (options: PgoutputOptions): boolean => (options.streamingKb ?? null) !== null;

/** What the session decodes in memory. */
export const memorySql = (options: PgoutputOptions): string =>
  isStreaming(options) ? `SET logical_decoding_work_mem = ${options.streamingKb}` : decodingMemorySql;

/**
 * A transaction of more than logical_decoding_work_mem is written to a file of the source and read again, which costs as
 * much as sending it. The source may hold more where it has memory: half its shared_buffers, up to 256 MB. In kB and 8 kB.
 */
export const decodingMemorySql = `
SELECT set_config('logical_decoding_work_mem', least(262144, b.setting::bigint * 4)::text, false)
  FROM pg_catalog.pg_settings m, pg_catalog.pg_settings b
 WHERE m.name = 'logical_decoding_work_mem' AND b.name = 'shared_buffers'
   AND m.setting::bigint < least(262144, b.setting::bigint * 4)`;
