import { type AgentRequest, askAgent } from "../agent-request.ts";
import type { RunningRegion } from "./cluster.ts";

const timeoutMs = 15_000;

export interface Answer<T> {
  readonly status: number;
  readonly body: T;
  /** Whose master wrote. */
  readonly region: string | null;
  /** In place of an owner that is away. */
  readonly takeover: boolean;
  /** As the application sees it. */
  readonly tookMs: number;
}

export type EndpointRequest = Omit<AgentRequest, "timeoutMs">;

/** One request to a region's endpoint, as an application sends it. @throws if it is not answered in 15 s */
export const ask = async <T>(
  { agent }: Pick<RunningRegion, "agent">,
  request: EndpointRequest,
): Promise<Answer<T>> => {
  const started = performance.now();
  const response = await askAgent(agent.api, { ...request, timeoutMs });
  const answer = (await response.json()) as T;
  return {
    status: response.status,
    body: answer,
    region: response.headers.get("coregent-region"),
    takeover: response.headers.get("coregent-takeover") === "true",
    tookMs: performance.now() - started,
  };
};

/** The same, where anything but success is a defect of the demo. */
export const mustAsk = async <T>(
  region: Pick<RunningRegion, "agent">,
  request: EndpointRequest,
): Promise<Answer<T>> => {
  const answer = await ask<T>(region, request);
  if (answer.status >= 300) {
    const said = JSON.stringify(answer.body);
    throw new Error(
      `${request.method ?? "GET"} ${region.agent.api}${request.path} answers ${answer.status}: ${said}`,
    );
  }
  return answer;
};
