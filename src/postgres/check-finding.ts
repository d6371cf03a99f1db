/** One thing that was looked at in one region. */
export interface Finding {
  readonly region: string;
  readonly severity: "ok" | "warning" | "critical";
  /** Names the rule, e.g. `deferrable_key`; see docs/verify.md. */
  readonly code: string;
  /** The setting, role, table or column it is about. */
  readonly object: string;
  readonly message: string;
  /** What to do, SQL where SQL does it; empty where nothing is to be done. */
  readonly remedy: string;
}

/** A finding before it is known whose region it is. */
export type LocalFinding = Omit<Finding, "region">;

export const critical = (code: string, object: string, message: string, remedy: string): LocalFinding => ({
  severity: "critical",
  code,
  object,
  message,
  remedy,
});
export const warning = (code: string, object: string, message: string, remedy: string): LocalFinding => ({
  severity: "warning",
  code,
  object,
  message,
  remedy,
});
export const fine = (code: string, object: string, message: string): LocalFinding => ({
  severity: "ok",
  code,
  object,
  message,
  remedy: "",
});
