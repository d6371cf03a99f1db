import type { MergeSession } from "./merge-session.ts";

/** What is remembered by name as long as a session: of its relations, of its tables. */
export const sessionMemory = <T>(): ((session: MergeSession) => Map<string, T>) => {
  const memories = new WeakMap<MergeSession, Map<string, T>>();
  return (session) => {
    const memory = memories.get(session) ?? new Map<string, T>();
    memories.set(session, memory);
    return memory;
  };
};
