import type { FastifyRequest } from "fastify";
import type { CatalogSource } from "../write/catalog.ts";
import type { Writer } from "../write/writer.ts";

/** What the HTTP API is made of: everything behind it that acts. */
export interface ApiParts {
  readonly cluster: string;
  /** The region of this endpoint. */
  readonly region: string;
  readonly writer: Pick<Writer, "write" | "read">;
  /** Of a master that answers: names are looked up in it before anything is sent anywhere. */
  readonly catalog: CatalogSource;
  readonly authorize: Authorize;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  readonly bounds: ApiBounds;
}

export type Right = "read" | "write";

/** Who asks. */
export interface Principal {
  /** Idempotency keys of one do not meet those of another. */
  readonly name: string;
}

/**
 * Whether the caller may do this to the table (`schema.table`); called for each table of a request before anything is done.
 * @throws Problem when not
 */
export type Authorize = (
  request: FastifyRequest,
  access: { readonly table: string; readonly right: Right },
) => Principal | Promise<Principal>;

export const allowAll: Authorize = () => ({ name: "" });

export interface ApiBounds {
  readonly maxBodyBytes: number;
  /** Of all bodies that are being received or worked on, but for small ones. */
  readonly maxBodyBytesUnderWay: number;
  /** Of all answers that are being sent, but for small ones. */
  readonly maxAnswerBytesUnderWay: number;
  /** For a long answer to be taken by its client. */
  readonly answerTimeoutMs: number;
  /** That have arrived, and are worked on. */
  readonly maxRequestsUnderWay: number;
  /** In a request. */
  readonly maxRows: number;
  readonly maxOperations: number;
  /** In an answer; further ones by `next`. */
  readonly maxPageRows: number;
  readonly pageRows: number;
  /** How long a read waits for what its session has seen, where the caller does not say. */
  readonly readWaitMs: number;
  /** How long a write waits for other regions' confirmations, where the caller does not say. */
  readonly durableWaitMs: number;
}

export const usualBounds: ApiBounds = {
  maxBodyBytes: 1024 * 1024,
  maxBodyBytesUnderWay: 128 * 1024 * 1024,
  maxAnswerBytesUnderWay: 128 * 1024 * 1024,
  answerTimeoutMs: 60_000,
  maxRequestsUnderWay: 1_000,
  maxRows: 1_000,
  maxOperations: 100,
  maxPageRows: 1_000,
  pageRows: 100,
  readWaitMs: 2_000,
  durableWaitMs: 10_000,
};
