import type { AddressInfo } from "node:net";
import { Registry } from "prom-client";
import { registerMetrics } from "../../src/http/metrics.ts";
import { createAgentServer, type ServerBounds } from "../../src/http/server.ts";
import { newLinkStatus, type AgentStatus, type LinkStatus } from "../../src/replication/status.ts";

export const nowMs = Date.UTC(2026, 5, 1, 12, 0, 0);

/** An agent's status with one link, as the links would have written it. */
export const agentStatus = (change: Partial<AgentStatus> = {}): AgentStatus & { link: LinkStatus } => {
  const link = newLinkStatus("argentina", 2, nowMs - 60_000);
  link.state = "streaming";
  return {
    region: "moldova",
    regionId: 1,
    cluster: "weightbook",
    version: "0.1.0",
    role: "active",
    startedAtMs: nowMs - 3_600_000,
    links: new Map([["argentina", link]]),
    quarantined: new Map(),
    slots: [],
    ...change,
    link,
  };
};

export interface RunningServer extends AsyncDisposable {
  readonly url: string;
  readonly port: number;
  get(path: string): Promise<Response>;
}

/** The real server on a free port of loopback. */
export const startServer = async (
  status: AgentStatus,
  options: {
    pingDatabase?: () => Promise<void>;
    pingTimeoutMs?: number;
    bounds?: Partial<ServerBounds>;
  } = {},
): Promise<RunningServer> => {
  const registry = new Registry();
  registerMetrics({ registry, status, now: () => nowMs });
  const server = createAgentServer({
    status,
    registry,
    now: () => nowMs,
    pingDatabase: options.pingDatabase ?? (() => Promise.resolve()),
    ...(options.bounds === undefined ? {} : { bounds: options.bounds }),
    ...(options.pingTimeoutMs === undefined ? {} : { pingTimeoutMs: options.pingTimeoutMs }),
  });
  await server.listen({ host: "127.0.0.1", port: 0 });
  const { port } = server.server.address() as AddressInfo;
  const url = `http://127.0.0.1:${port}`;
  return {
    url,
    port,
    get: (path) => fetch(url + path),
    [Symbol.asyncDispose]: () => server.close(),
  };
};
