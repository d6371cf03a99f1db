import Fastify, { type FastifyError, type FastifyInstance } from "fastify";
import type { Registry } from "prom-client";
import type { AgentStatus } from "../replication/status.ts";
import { notReadyReasons } from "./readiness.ts";
import { agentReport } from "./report.ts";

export interface AgentServerOptions {
  readonly status: AgentStatus;
  readonly registry: Registry;
  /** A trivial statement in the region's own database; rejects if it cannot be reached. */
  readonly pingDatabase: () => Promise<void>;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  readonly pingTimeoutMs?: number;
}

const jsonType = "application/json; charset=utf-8";
const problemType = "application/problem+json; charset=utf-8";

/**
 * The agent's own endpoints: `/livez`, `/readyz`, `/metrics`, `/v1/status`. They only read, they take no body, and
 * every resource that a client can hold is bounded, so that a scraper gone wild does not starve the links.
 */
export const createAgentServer = (options: AgentServerOptions): FastifyInstance => {
  const server = Fastify({
    logger: false,
    bodyLimit: 1024,
    requestTimeout: 10_000,
    connectionTimeout: 30_000,
    keepAliveTimeout: 65_000,
    maxRequestsPerSocket: 10_000,
    http: { maxHeaderSize: 16 * 1024 },
    // SIGTERM must not wait for a scraper's idle connection.
    forceCloseConnections: true,
    return503OnClosing: true,
  });
  server.server.maxConnections = 128;
  addProblems(server);
  addProbes(server, options);
  server.get("/metrics", async (_request, reply) => {
    const page = await options.registry.metrics();
    return reply.header("content-type", options.registry.contentType).send(page);
  });
  server.get("/v1/status", (_request, reply) =>
    reply.header("content-type", jsonType).send(agentReport(options.status, options.now())),
  );
  return server;
};

const addProbes = (server: FastifyInstance, options: AgentServerOptions): void => {
  const { status } = options;
  const ping = sharedPing(options.pingDatabase, options.pingTimeoutMs ?? 2000);
  server.get("/livez", () => ({ status: "ok", region: status.region }));
  server.get("/readyz", async (_request, reply) => {
    const reasons = notReadyReasons(status, await ping());
    return reply.code(reasons.length === 0 ? 200 : 503).send({
      status: reasons.length === 0 ? "ready" : "not ready",
      region: status.region,
      role: status.role,
      reasons,
    });
  });
};

/**
 * Answers null or what is wrong. Probes that come at once share one look at the database, so that no number of
 * probes takes more than one of its connections.
 */
const sharedPing = (ping: () => Promise<void>, timeoutMs: number): (() => Promise<string | null>) => {
  let running: Promise<string | null> | null = null;
  return async () => {
    running ??= ping()
      .then(
        () => null,
        (error: unknown) => (error instanceof Error ? error.message : String(error)),
      )
      .finally(() => {
        running = null;
      });
    const { promise: late, resolve } = Promise.withResolvers<string>();
    const timer = setTimeout(() => resolve(`no answer within ${timeoutMs} ms`), timeoutMs);
    try {
      return await Promise.race([running, late]);
    } finally {
      clearTimeout(timer);
    }
  };
};

/** Errors as RFC 9457 problems, without a stack or a path of ours. */
const addProblems = (server: FastifyInstance): void => {
  server.setNotFoundHandler((request, reply) =>
    reply
      .code(404)
      .type(problemType)
      .send({
        title: "Not found",
        status: 404,
        detail: `${request.method} is answered on /livez, /readyz, /metrics and /v1/status only, with GET`,
      }),
  );
  server.setErrorHandler((error: FastifyError, _request, reply) => {
    const status = error.statusCode ?? 500;
    return reply
      .code(status)
      .type(problemType)
      .send({
        title: status < 500 ? "Bad request" : "Internal error",
        status,
        ...(status < 500 ? { detail: error.message } : {}),
      });
  });
};
