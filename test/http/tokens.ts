import { createHash } from "node:crypto";
import type { Role, TokenSettings } from "../../regions/endpoint-settings.ts";

/** A token's line in the configuration. */
export const token = (name: string, role: Role, tables: readonly string[] | null = null): TokenSettings => ({
  name,
  role,
  tables,
  sha256: createHash("sha256").update(`token-of-${name}`).digest("hex"),
});

/** The header of a request with that token. */
export const as = (name: string): Record<string, string> => ({ authorization: `Bearer token-of-${name}` });
