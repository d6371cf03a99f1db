import { remembered } from "../remembered.ts";
import type { MergeSession } from "./merge-session.ts";

/** What is remembered by name as long as a session: of its relations, of its tables. */
export const sessionMemory = <T>(): ((session: MergeSession) => Map<string, T>) =>
  remembered(() => new Map<string, T>());
