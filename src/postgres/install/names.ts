import { createHash } from "node:crypto";
import { identifier } from "../identifiers.ts";

/** Cut to at most `bytes` bytes of UTF-8 without breaking a character: the server cuts longer names by itself. */
const cut = (text: string, bytes: number): string => {
  let length = 0;
  let kept = "";
  for (const character of text) {
    length += Buffer.byteLength(character);
    if (length > bytes) break;
    kept += character;
  }
  return kept;
};

/** What the names of all objects made for one table end with: readable, and distinct for distinct tables. */
export const tableSlug = (schema: string, table: string): string => {
  const digest = createHash("md5").update(`${schema}.${table}`).digest("hex");
  return `${cut(table, 40)}_${digest.slice(0, 8)}`;
};

/** Name of the table's tombstone relation, in schema `coregent`. At most 63 bytes. */
export const tombstoneName = (schema: string, table: string): string =>
  `tombstone_${tableSlug(schema, table)}`;

/** Name of the sequence that says whether the table has tombstones here, see `entombedGate`. At most 63 bytes. */
export const gateName = (schema: string, table: string): string => `gate_${tableSlug(schema, table)}`;

/** What older versions had instead; it was open where it had a value. */
export const formerGateName = (schema: string, table: string): string =>
  `entombed_${tableSlug(schema, table)}`;

/** A name in our schema, quoted. */
export const ours = (name: string): string => `coregent.${identifier(name)}`;

export const publicationName = "coregent";

/** The slot that consumer `target` reads at `source`; both are region ids. */
export const slotName = (cluster: string, source: number, target: number): string =>
  `coregent_${cluster}_${source}_${target}`;

/**
 * The copy of a slot from which its consumer reads a backlog by SQL. Slots are named for all databases of a server; each has
 * one reader, and so one copy. 63 bytes at most, as slots have 59.
 */
export const slotCopyName = (slot: string): string => `${slot}_sql`;

/** The replication origin under which a region merges what comes from `source`. */
export const originName = (cluster: string, source: number): string => `coregent_${cluster}_${source}`;

/** That under which rows in quarantine are tried again. No region has this id, and no link uses it. */
export const quarantineOriginName = (cluster: string): string => originName(cluster, 0);

/** That of the session in which batches are merged before their turn, whatever their source: a session has an origin alone. */
export const aheadOriginName = (cluster: string): string => `coregent_${cluster}_ahead`;

/** All that an agent may use where these are the other regions. */
export const originNames = (cluster: string, sources: readonly number[]): string[] => [
  ...sources.map((source) => originName(cluster, source)),
  quarantineOriginName(cluster),
  aheadOriginName(cluster),
];
