import { postgresAddress } from "../../regions/secret.ts";
import type { HostPort } from "../../regions/topology.ts";
import type { Line } from "../postgres/line.ts";

/** A master that a session may be led to. */
export interface EntranceMaster {
  readonly region: string;
  /** A name, an address, or the folder of a socket, which begins with "/". */
  readonly host: string;
  readonly port: number;
  /** How connections to it are made. */
  readonly line: Line;
}

/**
 * - `up`: takes sessions.
 * - `draining`: gets no new ones; those that it has end when they have nothing to do.
 * - `down`: those that it has are broken off, so that their clients come again and are led elsewhere.
 */
export type MasterState = "up" | "draining" | "down";

/** What the entrance asks of whoever knows the masters. */
export interface EntranceMasters {
  /** Those that take a new session now, in the order in which they are to be tried. */
  readonly candidates: () => readonly EntranceMaster[];
  /** Tells of each change from now on. @returns what ends it */
  readonly watch: (listener: (region: string, state: MasterState) => void) => () => void;
  /** Hears that a connection there has failed, which may be the first sign. */
  readonly doubt: (region: string) => void;
}

/** Where a PostgreSQL URL leads, by the rules of libpq; the user, the password and the rest are the client's business. */
export const masterAddress = (postgresUrl: string): HostPort => {
  const { host, port } = postgresAddress(new URL(postgresUrl));
  return { host: decodeURIComponent(host).replace(/^\[|\]$/g, ""), port: Number(port) };
};
