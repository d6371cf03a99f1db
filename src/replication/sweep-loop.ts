import { Sweeper } from "./sweeper.ts";
import type { AgentContext } from "./wiring.ts";
export const startSweeper = (_context: AgentContext, _signal: AbortSignal): { sweeper: Sweeper; done: Promise<void> } => ({ sweeper: new Sweeper(), done: Promise.resolve() });
