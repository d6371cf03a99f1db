import type { AgentContext } from "./wiring.ts";
export const runQuarantine = async (_context: AgentContext, _signal: AbortSignal): Promise<void> => {};
