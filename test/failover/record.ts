import type { TableName } from "./tables.ts";

/** What the clients did and were told. Times are of `performance.now()`. */

export type Kind = "insert" | "put" | "update" | "delete";

/** One sending of a request. */
export interface Attempt {
  readonly endpoint: string;
  readonly startMs: number;
  readonly endMs: number;
  /** null: there was no answer. */
  readonly status: number | null;
  /**
   * Of the problem. "refused": no connection was made; "broke": it ended before the answer; "silent": there was none in
   * time. null: it was accepted.
   */
  readonly code: string | null;
  readonly retryable: boolean;
  readonly hasRetryAfter: boolean;
  readonly detail: string;
}

/** What a 2xx says. */
export interface Accepted {
  readonly region: string;
  readonly takeover: boolean;
  readonly base: bigint;
  readonly version: bigint;
  /** As the effects have it. */
  readonly key: string;
  readonly replayed: boolean;
  readonly onceOnly: boolean | null;
  /** In how many further regions it is, as the answer says; null: it says nothing of that. */
  readonly durable: number | null;
}

/**
 * - `acknowledged`: 2xx.
 * - `committed`: 504 `not-durable-yet`: it is done, and in fewer further regions than was asked for.
 * - `refused`: it is not to be sent again, and nothing was done.
 * - `unknown`: without an idempotency key, the endpoint or its master went away meanwhile.
 * - `given up`: the run was over before it was accepted.
 */
export type Ending = "acknowledged" | "committed" | "refused" | "unknown" | "given up";

export interface Request {
  /** Stands in the row that it writes. */
  readonly token: string;
  readonly kind: Kind;
  readonly table: TableName;
  /** Who owns the row, as the client thinks. */
  readonly owner: string | null;
  /** null: the endpoint chooses one. */
  readonly id: string | null;
  readonly idempotencyKey: string | null;
  /** The version that If-Match names. */
  readonly ifMatch: bigint | null;
  /** In how many further regions it has to be before it is answered. */
  readonly durable: number | null;
  /** For how long at most. */
  readonly waitMs: number | null;
  /** That it is one operation of, together with others of that name. */
  readonly transaction: string | null;
}

export interface Done extends Request {
  readonly attempts: readonly Attempt[];
  readonly ending: Ending;
  /** Of one that is acknowledged or committed. */
  readonly accepted: Accepted | null;
}

/** A row was not there though the session had seen it: it must have been deleted. */
export interface Missed {
  readonly client: string;
  readonly table: string;
  readonly key: string;
  readonly base: bigint;
  readonly version: bigint;
}

/** What one transaction did to one row, as the region that committed it has noted. */
export interface Effect {
  readonly region: string;
  readonly xid: string;
  readonly op: "insert" | "update" | "delete";
  readonly table: string;
  readonly key: string;
  readonly base: bigint;
  readonly version: bigint;
  readonly prev: bigint;
  readonly content: Readonly<Record<string, string | null>> | null;
}

/** As the conflict log and the effects have it. */
export const keyText = (id: string): string => JSON.stringify([id]);

/** What may have been done: only a sending that was not answered, or whose outcome the endpoint did not know. */
export const mayBeDone = ({ code }: Attempt): boolean =>
  code === "broke" || code === "silent" || code === "outcome-unknown";
