import { randomUUID } from "node:crypto";
import type { Socket } from "node:net";
import Fastify, { type FastifyInstance } from "fastify";
import type { Registry } from "prom-client";
import type { EndpointSettings } from "../../regions/endpoint-settings.ts";
import { ClientPlaces } from "../client-places.ts";
import { Problem } from "../problems.ts";
import type { AgentStatus } from "../replication/status.ts";
import { Alive, Figures, Readiness, Report } from "./agent-schemas.ts";
import { registerApi, registerDescription } from "./api.ts";
import type { ApiParts } from "./api-parts.ts";
import { endInOrder } from "./linger.ts";
import { addProblems, answerClientError, problemFrom, sendProblem } from "./problem-reply.ts";
import { notReadyReasons } from "./readiness.ts";
import { agentReport } from "./report.ts";
import { problems } from "./row-route-schemas.ts";
import { validatorCompiler } from "./schemas.ts";
import { sharedLook } from "./shared-look.ts";
import { type AdminAction, registerSecurity } from "./security.ts";

export interface AgentServerOptions {
  readonly status: AgentStatus;
  readonly registry: Registry;
  /** A trivial statement in the region's own database; rejects if it cannot be reached. */
  readonly pingDatabase: () => Promise<void>;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  readonly pingTimeoutMs?: number;
  /** The regional writer's API; without it the endpoints only tell of the agent. */
  readonly api?: ApiParts;
  /** Further routes, which are then described at /openapi.json too. */
  readonly register?: readonly ((app: FastifyInstance) => void)[];
  /** A request failed for a reason that is ours. */
  readonly onInternal?: (problem: Problem, requestId: string) => void;
  readonly bounds?: Partial<ServerBounds>;
  /** Who may use it, as the configuration is now; without, the endpoints ask nobody. */
  readonly security?: () => EndpointSettings;
  /** Names by which those without a token may ask, beside those of loopback. */
  readonly hosts?: () => readonly string[];
  /** Something was asked for at an administrator's address; for the audit log. */
  readonly onAdminAction?: (action: AdminAction) => void;
  /** PEM texts. */
  readonly tls?: { readonly cert: Buffer; readonly key: Buffer } | null;
}

export interface ServerBounds {
  readonly maxConnections: number;
  /** For a request to arrive whole, */
  readonly requestTimeoutMs: number;
  /** and its headers. */
  readonly headersTimeoutMs: number;
  /** A connection on which nothing is sent either way. Longer than any answer takes. */
  readonly idleTimeoutMs: number;
  /** For the requests that are under way when the server is closed. */
  readonly stopGraceMs: number;
}

const usualBounds: ServerBounds = {
  maxConnections: 4_096,
  requestTimeoutMs: 10_000,
  headersTimeoutMs: 5_000,
  idleTimeoutMs: 120_000,
  stopGraceMs: 10_000,
};

const jsonType = "application/json; charset=utf-8";

/**
 * The agent's own endpoints `/livez`, `/readyz`, `/metrics`, `/v1/status`, and the API of the regional writer. Every
 * resource that a client can hold is bounded, so that one gone wild does not starve the others or the links.
 */
export const createAgentServer = (options: AgentServerOptions): FastifyInstance => {
  const { region } = options.status;
  const bounds = { ...usualBounds, ...options.bounds };
  const server = Fastify({
    logger: false,
    ...(options.tls ? { https: { ...options.tls, minVersion: "TLSv1.2" as const } } : {}),
    bodyLimit: 1024,
    requestTimeout: bounds.requestTimeoutMs,
    connectionTimeout: bounds.idleTimeoutMs,
    keepAliveTimeout: 65_000,
    maxRequestsPerSocket: 10_000,
    genReqId: () => randomUUID(),
    routerOptions: { maxParamLength: 4_096 },
    http: {
      maxHeaderSize: 16 * 1024,
      headersTimeout: bounds.headersTimeoutMs,
      connectionsCheckingInterval: Math.min(1_000, bounds.headersTimeoutMs),
    },
    // Connections that are idle end at once, the others with their answer (`finishInOrder`).
    forceCloseConnections: "idle",
    return503OnClosing: false,
    clientErrorHandler: answerClientError(region),
    frameworkErrors: (error, request, reply) => {
      void sendProblem(request, reply, problemFrom(error), region);
    },
  });
  server.server.maxConnections = bounds.maxConnections;
  if (options.security !== undefined) boundAddresses(server, options.security);
  finishInOrder(server, bounds.stopGraceMs);
  server.server.on(options.tls ? "secureConnection" : "connection", (socket: Socket) => {
    // How Node closes a connection behind its last answer.
    socket.destroySoon = () => endInOrder(socket);
  });
  // Only what a page of another site cannot send without being asked about it.
  server.removeContentTypeParser("text/plain");
  server.setValidatorCompiler(validatorCompiler);
  server.setSerializerCompiler(() => (value) => JSON.stringify(value));
  addProblems(server, {
    region,
    onInternal: (problem, request) => options.onInternal?.(problem, request.id),
  });
  void server.register(async (app) => {
    const { security: settings, hosts = () => [], onAdminAction } = options;
    if (settings !== undefined) registerSecurity(app, { settings, hosts, onAdminAction });
    await registerDescription(app);
    await app.register((scope, _options, done) => {
      addAgentRoutes(scope, options);
      for (const register of options.register ?? []) register(scope);
      done();
    });
    if (options.api !== undefined) await registerApi(app, options.api);
  });
  return server;
};

/**
 * No client uses up the places of the others. One that has its own is told so in answer to its request, encrypted or not: so
 * the connection is known by the client's port, since the raw socket is not the request's.
 */
const boundAddresses = (server: FastifyInstance, settings: () => EndpointSettings): void => {
  const places = new ClientPlaces(settings);
  const refused = new Set<string>();
  const nameOf = ({ remoteAddress, remotePort }: Socket): string => `${remoteAddress} ${remotePort}`;
  server.server.on("connection", (socket: Socket) => {
    const place = places.enter(socket);
    if (place === "crowded") socket.destroy();
    if (place !== "taken") return;
    const name = nameOf(socket);
    refused.add(name);
    socket.once("close", () => refused.delete(name));
  });
  server.addHook("onRequest", ({ raw }, _reply, done) => {
    const isRefused = refused.size > 0 && refused.has(nameOf(raw.socket));
    done(isRefused ? tooManyConnections(settings()) : undefined);
  });
};

const tooManyConnections = ({ connectionsPerAddress }: EndpointSettings): Problem =>
  new Problem("too-many-connections", `an address may have ${connectionsPerAddress} connections open`, {
    headers: { connection: "close" },
  });

/** How long a request may go on to arrive when the server is closed. */
const arriveMs = 1_000;
const lookMs = 50;

/** A request that has arrived when the server is closed gets its answer, unless that takes too long. */
const finishInOrder = (server: FastifyInstance, graceMs: number): void => {
  let working = 0;
  let closing = false;
  server.addHook("preValidation", (_request, { raw }, done) => {
    working += 1;
    raw.once("close", () => {
      working -= 1;
    });
    done();
  });
  server.addHook("onSend", (_request, reply, payload, done) => {
    if (closing) reply.header("connection", "close");
    done(null, payload);
  });
  server.addHook("preClose", (done) => {
    closing = true;
    let waitedMs = 0;
    const looking = setInterval(() => {
      waitedMs += lookMs;
      if (waitedMs >= graceMs || (waitedMs >= arriveMs && working === 0)) {
        server.server.closeAllConnections();
      }
    }, lookMs);
    // A server that never listened does not close.
    looking.unref();
    server.server.once("close", () => clearInterval(looking));
    done();
  });
};

const addAgentRoutes = (server: FastifyInstance, options: AgentServerOptions): void => {
  addProbes(server, options);
  server.get("/metrics", told("Figures for Prometheus", { 200: Figures }), async (_request, reply) => {
    const page = await options.registry.metrics();
    return reply.header("content-type", options.registry.contentType).send(page);
  });
  server.get("/v1/status", told("The agent's links", { 200: Report }), (_request, reply) =>
    reply.header("content-type", jsonType).send(agentReport(options.status, options.now())),
  );
};

const told = (summary: string, response: object) => ({
  schema: { tags: ["agent"], summary, response: { ...response, ...problems } },
});

const addProbes = (server: FastifyInstance, options: AgentServerOptions): void => {
  const { status } = options;
  const timeoutMs = options.pingTimeoutMs ?? 2000;
  /** Null, or what is wrong. */
  const ping = sharedLook<string | null>(() => options.pingDatabase().then(() => null, messageOf), {
    timeoutMs,
    late: () => `no answer within ${timeoutMs} ms`,
  });
  server.get("/livez", told("Whether the process lives", { 200: Alive }), () => ({
    status: "ok",
    region: status.region,
  }));
  const readiness = { 200: Readiness, 503: Readiness };
  server.get(
    "/readyz",
    told("Whether the agent works for its region", readiness),
    async (_request, reply) => {
      const reasons = notReadyReasons(status, await ping());
      return reply.code(reasons.length === 0 ? 200 : 503).send({
        status: reasons.length === 0 ? "ready" : "not ready",
        region: status.region,
        role: status.role,
        reasons,
      });
    },
  );
};

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
