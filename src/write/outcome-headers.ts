import type { WriteOutcome } from "./writer.ts";

/** What an answer tells of a write beside its rows, also where it is 504 `not-durable-yet`: it is committed then, too. */
export const outcomeHeaders = ({
  takeover,
  version,
  onceOnly,
  replayed,
}: Pick<WriteOutcome, "takeover" | "version" | "onceOnly" | "replayed">): Record<string, string> => ({
  "coregent-takeover": String(takeover),
  "coregent-version": version.toString(),
  ...(onceOnly === null ? {} : { "coregent-once-only": String(onceOnly) }),
  ...(replayed ? { "idempotency-replayed": "true" } : {}),
});
