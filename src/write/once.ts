import type { ClientBase } from "pg";
import type { Clock } from "../clock.ts";
import { Problem } from "../problems.ts";
import {
  askPeers,
  type Claim,
  claimKey,
  defaultExpiresAfterMs,
  type IdempotencyKey,
  type IdempotencyRecord,
  isOnceOnly,
  keepAnswer,
  lookUpKey,
  type Peer,
  type PeersSay,
} from "./idempotency.ts";
import { type Operation, type OperationResult, resultsFromJson, resultsToJson } from "./operation.ts";
import type { Database } from "./position.ts";
import type { Catalog } from "./catalog.ts";

/** What a request with an idempotency key came to at one master. */
export type Once =
  | {
      readonly kind: "done";
      readonly results: readonly OperationResult[];
      /** False: a region that could not be asked may have done it too, or may do it yet. */
      readonly onceOnly: boolean;
    }
  /** It was done before; nothing is to be committed. */
  | { readonly kind: "replayed"; readonly record: IdempotencyRecord };

export interface OnceRequest {
  readonly id: IdempotencyKey;
  readonly work: () => Promise<readonly OperationResult[]>;
  /** What the answer tells besides the results. */
  readonly takeover: boolean;
  readonly insertsUnderFixedKeysOnly: boolean;
  /** This master, on another session. */
  readonly here: Database;
  /** Its region's id. */
  readonly region: number;
  /** The other masters: those that may be asked, and the ids of those that are known to be down. */
  readonly peers: readonly Peer[];
  readonly unreachable: readonly number[];
  readonly timeoutMs: number;
  readonly clock: Clock;
}

/**
 * Does the work if nobody has done it under this key, in the transaction that is open on `client`; the peers are asked
 * while it is done.
 * @throws Problem `idempotency-in-flight`, `idempotency-key-reused`; KeyTaken; what the work throws
 */
export const doOnce = async (client: ClientBase, request: OnceRequest): Promise<Once> => {
  const { id, clock, timeoutMs, takeover } = request;
  const here = refuse(await claimKey(client, id));
  if (here !== null) return { kind: "replayed", record: here };
  // From now on whoever asks this master finds the key held: of two regions that begin at once, one sees the other.
  const asking = askPeers(request.peers, id, { clock, timeoutMs });
  let results: readonly OperationResult[];
  try {
    results = await request.work();
  } catch (error) {
    // A peer that did it meanwhile has sent the rows, which are now in the way.
    const said = [(await asking).claim, await lookUpKey(request.here, id).catch(() => null)];
    const record = said.find((claim) => claim?.kind === "replayed")?.record;
    if (record === undefined) throw error;
    return { kind: "replayed", record };
  }
  const said = await firstInLine(await asking, request);
  const elsewhere = refuse(said.claim);
  if (elsewhere !== null) return { kind: "replayed", record: elsewhere };
  const unreachable = [...request.unreachable, ...said.unreachable];
  const { insertsUnderFixedKeysOnly } = request;
  const onceOnly = isOnceOnly({ unreachable, insertsUnderFixedKeysOnly });
  await keepAnswer(client, id, {
    answer: JSON.stringify({ takeover, onceOnly, results: resultsToJson(results) }),
    expiresAfterMs: defaultExpiresAfterMs,
  });
  return { kind: "done", results, onceOnly };
};

const maxAsked = 4;
const askAgainMs = 50;

/**
 * Regions that began at once have all seen each other. So that not all of them stand back, the one with the lowest id
 * asks again, still holding the key, until the others have.
 */
const firstInLine = async (first: PeersSay, request: OnceRequest): Promise<PeersSay> => {
  const { peers, id, region, clock, timeoutMs } = request;
  let said = first;
  for (let asked = 1; asked < maxAsked; asked += 1) {
    if (said.claim.kind !== "in-flight" || said.inFlight.some((other) => other < region)) return said;
    await clock.sleep(askAgainMs);
    said = await askPeers(peers, id, { clock, timeoutMs });
  }
  return said;
};

/** The record of a claim that was replayed, null for a new one. */
export const refuse = (claim: Claim): IdempotencyRecord | null => {
  switch (claim.kind) {
    case "new":
      return null;
    case "replayed":
      return claim.record;
    case "in-flight":
      throw new Problem("idempotency-in-flight", "a request with this Idempotency-Key is being carried out", {
        retryAfterSeconds: 1,
      });
    case "reused":
      throw new Problem(
        "idempotency-key-reused",
        "another request, not the same, has been sent with this Idempotency-Key",
      );
  }
};

export interface KeptAnswer {
  readonly takeover: boolean;
  /** As it was said then. */
  readonly onceOnly: boolean;
  readonly results: readonly OperationResult[];
}

/** What a record says of the answer; no results where they were too large to be kept, or there is no record. */
export const answerOf = (record: IdempotencyRecord | null): KeptAnswer => {
  const answer = record?.answer ?? null;
  if (answer === null) return { takeover: false, onceOnly: true, results: [] };
  // Records of earlier releases do not say it.
  const kept = JSON.parse(answer) as { takeover: boolean; onceOnly?: boolean; results: string };
  const { takeover, onceOnly = true, results } = kept;
  return { takeover, onceOnly, results: resultsFromJson(results) };
};

/** Whether all that is written are new rows whose keys every region chooses alike. */
export const insertsUnderFixedKeysOnly = (operations: readonly Operation[], catalog: Catalog): boolean =>
  operations.every((operation) => {
    if (operation.kind === "select") return true;
    const key = catalog.tables.get(operation.table)?.key ?? catalog.byPlainName.get(operation.table)?.key;
    return (
      operation.kind === "insert" &&
      key !== undefined &&
      operation.rows.every((row) => key.every(({ name }) => row.has(name)))
    );
  });
