import type { TestCluster } from "../../src/testing/index.ts";

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  readonly json: Record<string, unknown>;
}

export type Ask = (
  region: string,
  request: readonly [method: string, path: string],
  body?: unknown,
  headers?: Readonly<Record<string, string>>,
) => Promise<Answer>;

/** Asks the endpoint of a region's agent. */
export const asking =
  (cluster: TestCluster): Ask =>
  async (region, [method, path], body, headers = {}) => {
    const response = await fetch(`${cluster.region(region).api}${path}`, {
      method,
      headers: { ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    const json = text === "" ? {} : (JSON.parse(text) as Record<string, unknown>);
    return { status: response.status, headers: response.headers, text, json };
  };

/** An application's session: what it asks for carries what the answer before said of itself. */
export class HttpSession {
  readonly #ask: Ask;
  #token: string | null = null;

  constructor(ask: Ask) {
    this.#ask = ask;
  }

  ask: Ask = async (region, request, body, headers = {}) => {
    const seen = this.#token === null ? {} : { "coregent-session": this.#token };
    const answer = await this.#ask(region, request, body, { ...seen, ...headers });
    this.#token = answer.headers.get("coregent-session") ?? this.#token;
    return answer;
  };
}
