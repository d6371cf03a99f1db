export interface AgentRequest {
  readonly method?: string;
  readonly path: string;
  /** Sent as JSON. */
  readonly body?: unknown;
  /** undefined, null or "": as anybody. */
  readonly token?: string | null | undefined;
  readonly timeoutMs: number;
}

/** One request to the HTTP endpoint of an agent at `api`. @throws what `fetch` throws, also when there is no answer in time */
export const askAgent = (
  api: string,
  { method = "GET", path, body, token, timeoutMs }: AgentRequest,
): Promise<Response> =>
  fetch(`${api}${path}`, {
    method,
    signal: AbortSignal.timeout(timeoutMs),
    headers: {
      ...((token ?? "") === "" ? {} : { authorization: `Bearer ${token}` }),
      ...(body === undefined ? {} : { "content-type": "application/json" }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
