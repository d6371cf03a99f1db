// For the tags of a schema.
import "@fastify/swagger";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { Type } from "typebox";
import type { ServerFacts } from "../postgres/server-facts.ts";
import { Problem } from "../problems.ts";
import type { AgentStatus } from "../replication/status.ts";
import { PatroniState } from "./agent-schemas.ts";
import { lagBytes, lagSeconds } from "./lag.ts";
import { type LagBound, parseLagBound } from "./lag-bound.ts";
import { problems } from "./row-route-schemas.ts";
import { sharedLook } from "./shared-look.ts";

export interface PatroniParts {
  readonly status: AgentStatus;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  /** Of the region's own master; rejects if it cannot be reached. */
  readonly facts: () => Promise<ServerFacts>;
  /** The region is out for maintenance. */
  readonly drained: () => boolean;
  /** Why it takes no writes; null: it does. */
  readonly fenced: () => string | null;
  /** How long the master may take to answer; default 2,000. */
  readonly timeoutMs?: number;
}

/** How far the region is behind the peer that it is most behind of; null: not known. */
interface Lag {
  readonly seconds: number | null;
  readonly bytes: number | null;
}

/** What is answered from. `facts` null: the master does not answer. */
interface View {
  readonly facts: ServerFacts | null;
  readonly lag: Lag;
  readonly role: AgentStatus["role"];
  readonly drained: boolean;
  readonly fenced: string | null;
}

type Check = (view: View, bound: LagBound | null) => boolean;

const runs: Check = ({ facts }) => facts !== null;
const isOpen = (view: View): boolean => view.facts !== null && !view.drained && view.role !== "stopping";
const takesWrites: Check = (view) =>
  isOpen(view) && view.facts?.inRecovery === false && !view.facts.readOnly && view.fenced === null;
const takesReads: Check = (view, bound) => isOpen(view) && isWithin(view.lag, bound);

const isWithin = (lag: Lag, bound: LagBound | null): boolean => {
  if (bound === null) return true;
  const [behind, most] = "bytes" in bound ? [lag.bytes, bound.bytes] : [lag.seconds, bound.seconds];
  return behind !== null && behind <= most;
};

const checks: Readonly<Record<string, { readonly summary: string; readonly check: Check }>> = {
  "/primary": { summary: "200 if this region's master takes writes", check: takesWrites },
  "/read-write": { summary: "The same as /primary", check: takesWrites },
  "/replica": {
    summary: "200 if this region takes reads, and with ?lag= is no further behind its peers than that",
    check: takesReads,
  },
  "/read-only": { summary: "The same as /replica", check: takesReads },
  "/health": { summary: "200 if this region's PostgreSQL runs", check: runs },
};

/**
 * The health checks that Patroni has, for load balancers and tools that know those: 200 or 503, with Patroni's JSON for
 * GET and none for HEAD and OPTIONS. Every region has a primary here, so each that is well is `/primary` and `/replica`.
 */
export const registerPatroni = (app: FastifyInstance, parts: PatroniParts): void => {
  const look = sharedLook<ServerFacts | null>(() => parts.facts().catch(() => null), {
    timeoutMs: parts.timeoutMs ?? 2_000,
    late: () => null,
  });
  for (const [path, { summary, check }] of Object.entries(checks)) {
    const answer = async (request: FastifyRequest): Promise<{ status: number; body: object }> => {
      const bound = boundOf(request.query);
      const view = viewOf(parts, await look());
      return { status: check(view, bound) ? 200 : 503, body: bodyOf(parts.status, view) };
    };
    const schema = {
      tags: ["agent"],
      summary,
      querystring: Type.Object({
        lag: Type.Optional(Type.Unknown({ description: "No further behind than this: `5s`, `16MB`." })),
      }),
      response: { 200: PatroniState, 503: PatroniState, ...problems },
    };
    app.get(path, { schema }, async (request, reply: FastifyReply) => {
      const { status, body } = await answer(request);
      return reply.code(status).send(body);
    });
    app.options(path, { schema: { hide: true } }, async (request, reply: FastifyReply) => {
      const { status } = await answer(request);
      return reply.code(status).send();
    });
  }
};

/** Of several the first counts, as with Patroni; one that cannot be read is no bound to rely on. */
const boundOf = (query: unknown): LagBound | null => {
  const given = (query as Readonly<Record<string, string | readonly string[] | undefined>>)["lag"];
  const text = typeof given === "string" || given === undefined ? given : given[0];
  if (text === undefined) return null;
  const bound = parseLagBound(text);
  if (bound === null) {
    throw new Problem(
      "parameter-invalid",
      "lag is an amount of bytes or of time, such as 1048576, 16MB, 500ms or 5s",
    );
  }
  return bound;
};

const viewOf = ({ status, now, drained, fenced }: PatroniParts, facts: ServerFacts | null): View => ({
  facts,
  lag: lagOf(status, now()),
  role: status.role,
  drained: drained(),
  fenced: fenced(),
});

/** An agent that does not work for its region knows nothing of its links; of a link that is down, nobody knows the bytes. */
const lagOf = (status: AgentStatus, nowMs: number): Lag => {
  if (status.role !== "active") return { seconds: null, bytes: null };
  const links = [...status.links.values()];
  const isKnown = links.every(({ state }) => state === "streaming");
  return {
    seconds: Math.max(0, ...links.map((link) => lagSeconds(link, nowMs))),
    bytes: isKnown ? Math.max(0, ...links.map(lagBytes)) : null,
  };
};

const bodyOf = ({ cluster, region, version }: AgentStatus, view: View): object => {
  const { facts, lag, drained, fenced } = view;
  return {
    state: facts === null ? "unknown" : "running",
    role: facts?.inRecovery === true ? "replica" : "primary",
    ...(facts === null
      ? {}
      : {
          postmaster_start_time: facts.startedAt,
          server_version: facts.version,
          xlog: facts.inRecovery ? { replayed_location: facts.position } : { location: facts.position },
          timeline: facts.timeline,
          database_system_identifier: facts.systemIdentifier,
        }),
    // Where tools for Patroni look for the names of the cluster and the member.
    patroni: { version, scope: cluster, name: region },
    coregent: { lag_seconds: lag.seconds, lag_bytes: lag.bytes, drained, fenced },
  };
};
