import { readFile } from "node:fs/promises";
import { Registry } from "prom-client";
import { asksForToken, type TlsFiles } from "../../regions/endpoint-settings.ts";
import { isLoopback } from "../../regions/loopback.ts";
import type { Region, Topology } from "../../regions/topology.ts";
import { defaultEntranceBounds } from "../entrance/bounds.ts";
import { Entrance } from "../entrance/entrance.ts";
import { WatchedMasters } from "../entrance/watched-masters.ts";
import { OperatorError } from "../errors.ts";
import { type ApiParts, usualBounds } from "../http/api-parts.ts";
import type { ListenAddress } from "../http/listen.ts";
import { registerEntranceMetrics } from "../http/entrance-metrics.ts";
import { registerMetrics } from "../http/metrics.ts";
import { registerOutages } from "../http/outage-routes.ts";
import { registerPatroni } from "../http/patroni.ts";
import { registerRouting } from "../http/route-routes.ts";
import { type AdminAction, authorize } from "../http/security.ts";
import { createAgentServer } from "../http/server.ts";
import { registerWriterMetrics } from "../http/writer-metrics.ts";
import type { OutageRegistry } from "../outages/registry.ts";
import { AuditTrail } from "../postgres/audit-trail.ts";
import { connectPool } from "../postgres/client.ts";
import { readServerFacts } from "../postgres/server-facts.ts";
import type { AgentContext } from "../replication/wiring.ts";
import { runExpiry } from "../write/expiry.ts";
import type { QuietSpan } from "../write/position.ts";
import { Masters } from "../write/masters.ts";
import { RegionalWriter } from "../write/writer.ts";

export interface EndpointOptions {
  readonly agent: AgentContext;
  readonly region: Region;
  /** As it is at the moment of the call. */
  readonly topology: () => Topology;
  readonly outages: OutageRegistry;
  readonly listen: ListenAddress;
}

/** How long sessions of the entrance may take to become idle when the agent stops. */
const entranceGraceMs = 3_000;

/**
 * Where applications come in: the HTTP API of the regional writer beside what tells of the agent, and the entrance for
 * PostgreSQL clients, if the region has one. It does not depend on whether this agent is active or a standby.
 * @throws OperatorError CG-PORT-TAKEN, CG-ENDPOINT-OPEN, CG-TLS-UNREADABLE
 */
export const serveEndpoints = async (
  options: EndpointOptions,
): Promise<{ readonly close: () => Promise<void> }> => {
  const { agent, region, topology, outages, listen } = options;
  const { clock, logger, random } = agent;
  mustBeClosedOrLocal(topology(), listen);
  const tls = await readTls(topology().endpoint.tls);
  const lineTo = (name: string) => outages.lineTo(name);
  const masters = new Masters({
    here: region.name,
    topology,
    clock,
    logger,
    lineTo,
    quietOf: (origin) => quietOf(agent, origin),
  });
  const registry = new Registry();
  const events = registerWriterMetrics(registry, () => masters.all);
  const writer = new RegionalWriter({ masters, topology, clock, random, events });
  const members = (): ReadonlySet<number> => new Set(topology().regions.map(({ id }) => id));
  const ending = new AbortController();
  const audit = new AuditTrail({
    url: agent.region.url,
    line: agent.region.line,
    region: region.name,
    clock,
    random,
    logger,
  });
  const server = serverOf(options, { writer, masters, registry, tls, audit });
  const watched = new WatchedMasters({ masters, random, lineTo });
  const entrance =
    region.entrance === null
      ? null
      : new Entrance({
          listen: region.entrance,
          masters: watched,
          bounds: defaultEntranceBounds,
          places: () => topology().endpoint,
          clock,
          logger,
        });
  if (entrance !== null) registerEntranceMetrics(registry, () => entrance.status);
  const running = [
    masters.run(ending.signal),
    watched.run(ending.signal),
    audit.run(ending.signal),
    runExpiry({ database: () => masters.find(region.name), members, clock }, ending.signal),
  ];
  const close = async (): Promise<void> => {
    await Promise.all([server.close(), entrance?.close({ graceMs: entranceGraceMs })]);
    ending.abort();
    await Promise.all(running);
    await masters.close();
  };
  try {
    await server.listen(listen).catch(cannotListen(listen));
    await entrance?.listen().catch(cannotListen(region.entrance ?? listen));
  } catch (error) {
    await close();
    throw error;
  }
  const scheme = tls === null ? "http" : "https";
  logger.info({ address: `${scheme}://${listen.host}:${listen.port}` }, "agent endpoints listen");
  if (!asksForToken(topology().endpoint)) {
    logger.info("requests need no token, and so the endpoints listen on loopback only");
  }
  if (region.entrance !== null) {
    logger.info(
      { address: `${region.entrance.host}:${region.entrance.port}` },
      "PostgreSQL entrance listens",
    );
  }
  return { close };
};

interface ServerParts {
  readonly writer: RegionalWriter;
  readonly masters: Masters;
  readonly registry: Registry;
  readonly tls: { readonly cert: Buffer; readonly key: Buffer } | null;
  readonly audit: AuditTrail;
}

const serverOf = (
  { agent, region, topology, outages }: EndpointOptions,
  { writer, masters, registry, tls, audit }: ServerParts,
): ReturnType<typeof createAgentServer> => {
  const { status, clock, logger } = agent;
  registerMetrics({ registry, status, now: clock.now });
  const ready = connectPool(agent.region.url, {
    applicationName: `coregent ready ${region.name}`,
    maxConnections: 1,
    line: agent.region.line,
  });
  const own = () => masters.views().find(({ name }) => name === region.name);
  const api: ApiParts = {
    cluster: agent.cluster,
    region: region.name,
    writer,
    catalog: writer.catalog,
    authorize,
    now: clock.now,
    bounds: usualBounds,
  };
  const server = createAgentServer({
    status,
    registry,
    now: clock.now,
    pingDatabase: async () => {
      await ready.query("SELECT 1");
    },
    api,
    register: [
      (app) =>
        registerPatroni(app, {
          status,
          now: clock.now,
          facts: () => readServerFacts(ready),
          drained: () => own()?.drained ?? false,
          fenced: () => own()?.fenced ?? null,
        }),
      (app) => registerRouting(app, { writer, region: region.name, topology, authorize }),
      (app) =>
        registerOutages(app, {
          registry: outages,
          allowed: () => topology().outages.allowed,
          regions: () => topology().regions.map(({ name }) => name),
        }),
    ],
    security: () => topology().endpoint,
    hosts: () => topology().regions.flatMap((each) => (each.name === region.name ? [apiHost(each)] : [])),
    tls,
    onAdminAction: (action) => {
      logger.warn({ audit: action }, "an administrator's request");
      record(audit, action, clock.now());
    },
    onInternal: (problem, requestId) =>
      logger.error({ err: problem.facts.cause ?? problem, requestId }, "a request failed"),
  });
  server.addHook("onClose", () => ready.end());
  return server;
};

/** What administrators ask for. Others are refused, and could fill the table by being refused again and again. */
const record = (trail: AuditTrail, action: AdminAction, nowMs: number): void => {
  const { by, isAdmin, method, path, outcome, status, from, requestId } = action;
  if (by === null || !isAdmin) return;
  trail.add({
    at: new Date(nowMs),
    action: `${method} ${path}`,
    detail: outcome ?? `refused with ${status}`,
    by,
    from,
    requestId,
  });
};

const apiHost = ({ api }: Region): string => new URL(api).hostname;

/** What the link of a peer knows beyond the progress that is recorded. */
const quietOf = ({ status }: AgentContext, origin: number): QuietSpan | null => {
  for (const link of status.links.values()) {
    if (link.peerId === origin && link.incarnation !== null && link.mergedLsn > link.recordedLsn) {
      return { incarnation: link.incarnation, from: link.recordedLsn, to: link.mergedLsn };
    }
  }
  return null;
};

const mustBeClosedOrLocal = ({ endpoint }: Topology, { host }: ListenAddress): void => {
  if (!asksForToken(endpoint) && !isLoopback(host)) {
    throw new OperatorError(
      "CG-ENDPOINT-OPEN",
      `without tokens anyone who reaches ${host} could write: the endpoint listens on loopback only`,
      {
        remedy:
          "Make tokens with coregent token, and list them under endpoint: tokens: in the configuration.",
      },
    );
  }
};

const readTls = async (files: TlsFiles | null): Promise<{ cert: Buffer; key: Buffer } | null> => {
  if (files === null) {
    return null;
  }
  try {
    const [cert, key] = await Promise.all([readFile(files.certificate), readFile(files.key)]);
    return { cert, key };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new OperatorError("CG-TLS-UNREADABLE", `the endpoint's certificate cannot be read: ${reason}`, {
      remedy: "Correct endpoint: tls: in the configuration, or let the agent's user read the files.",
      cause: error,
    });
  }
};

/** Ports in use and the like are said with what to do; anything else is an error of ours. */
const cannotListen =
  ({ host, port }: ListenAddress) =>
  (error: unknown): never => {
    const code = (error as NodeJS.ErrnoException).code ?? "";
    if (!["EADDRINUSE", "EADDRNOTAVAIL", "EACCES", "ENOTFOUND"].includes(code)) {
      throw error;
    }
    throw new OperatorError("CG-PORT-TAKEN", `the agent cannot listen on ${host}:${port} (${code})`, {
      remedy:
        code === "EADDRINUSE"
          ? "Another program, or another agent, listens there. Give this one an address of its own: --listen HOST:PORT."
          : "Give an address of this machine: --listen HOST:PORT.",
      cause: error,
    });
  };
