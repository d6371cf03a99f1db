import type { Region } from "../../regions/topology.ts";
import { askAgent } from "../agent-request.ts";
import type { CliContext } from "./context.ts";

const timeoutMs = 5_000;
const maxAnswerCharacters = 10_000;

/**
 * One request to an agent's admin addresses, with the token in COREGENT_TOKEN if there is one. A 404 that is an answer
 * (nothing was healed) is given as such.
 * @throws Error that says what the agent answered, or that it did not
 */
export const adminRequest = async <T>(
  { env }: Pick<CliContext, "env">,
  region: Region,
  request: { readonly method: string; readonly path: string; readonly body?: unknown },
): Promise<T> => {
  const response = await askAgent(region.api, { ...request, token: env["COREGENT_TOKEN"], timeoutMs });
  const text = (await response.text()).slice(0, maxAnswerCharacters);
  const answer = jsonOrNull(text);
  if (!response.ok && !(response.status === 404 && answer !== null && "healed" in answer)) {
    const detail = answer?.["detail"] ?? answer?.["title"];
    throw new Error(typeof detail === "string" ? detail : `${region.api} answers ${response.status}`);
  }
  return answer as T;
};

const jsonOrNull = (text: string): Record<string, unknown> | null => {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
};
