import type { FastifyInstance, FastifyRequest } from "fastify";
import type { EndpointSettings } from "../../regions/endpoint-settings.ts";
import { clientOf } from "../client-places.ts";
import { Problem } from "../problems.ts";
import type { Authorize } from "./api-parts.ts";
import { anonymousName, createAuthenticator, type Identity, mustBeAllowed } from "./authenticate.ts";
import { mustBeLocal } from "./local-only.ts";
import { Rates } from "./rates.ts";

/** Whom a request is from, once it is known. */
const identityKey = Symbol("identity");
/** What an administrator's request came to, in a few words. */
const outcomeKey = Symbol("outcome");
type Identified = FastifyRequest & { [identityKey]?: Identity; [outcomeKey]?: string };

/** What load balancers ask without a token, as often as they like: whether the region is well. */
const health = /^\/(?:livez|readyz|health|primary|read-write|read-only|replica)$/;
/** What browsers ask without a token: how to ask for more. */
const pages = /^\/(?:openapi\.json$|docs(?:\/|$))/;

/** Of one address, with no token or a wrong one; less where a token may send less. */
const maxRefusedPerSecond = 100;

/** Of the route that was found, and not of the request: an address can be spelled in more than one way. */
const pathOf = ({ routeOptions }: FastifyRequest): string => routeOptions.url ?? "";

const isAdmins = (path: string): boolean => path.startsWith("/v1/admin/");

const maxPathCharacters = 200;

/** For the audit log: what was asked for at an administrator's address, also where it was refused. */
export interface AdminAction {
  /** The token's name; null: not known. */
  readonly by: string | null;
  readonly from: string;
  /** Whether he is an administrator: else it was refused. */
  readonly isAdmin: boolean;
  readonly method: string;
  /** Without what was behind a question mark. */
  readonly path: string;
  readonly status: number;
  /** In a few words; null: nothing was done. */
  readonly outcome: string | null;
  readonly requestId: string;
}

export interface SecurityOptions {
  /** As they are now. */
  readonly settings: () => EndpointSettings;
  /** Names by which those without a token may ask, beside those of loopback. */
  readonly hosts: () => readonly string[];
  readonly onAdminAction?: ((action: AdminAction) => void) | undefined;
}

/**
 * Who asks is found out before anything else of the request is looked at, and how often he asks is bounded. Addresses of
 * `/v1/admin/` are admin's; the others ask for their rights themselves (`authorize`).
 */
export const registerSecurity = (
  app: FastifyInstance,
  { settings, hosts, onAdminAction }: SecurityOptions,
): void => {
  const identify = identifier(settings);
  const asked = new Rates(() => performance.now());
  const count = (caller: string): void => {
    const { requestsPerSecond } = settings();
    if (asked.take(caller, requestsPerSecond)) return;
    throw tooOften(`this caller may send ${requestsPerSecond} requests a second`);
  };
  app.addHook("onRequest", async (request: Identified) => {
    const path = pathOf(request);
    if (health.test(path)) return;
    if (pages.test(path)) {
      count(`at:${clientOf(request.ip)}`);
      return;
    }
    const identity = await identify(request);
    request[identityKey] = identity;
    const isAnonymous = identity.name === anonymousName;
    count(isAnonymous ? `at:${clientOf(request.ip)}` : identity.name);
    if (isAnonymous) mustBeLocal(request, hosts);
    mustBeAllowed(identity, isAdmins(path) ? "admin" : "read");
  });
  app.addHook("onResponse", (request: Identified, reply, done) => {
    const { method, url, ip, id } = request;
    if (isAdmins(pathOf(request)) && method !== "GET" && method !== "HEAD") {
      const { name, role } = request[identityKey] ?? { name: null, role: null };
      onAdminAction?.({
        by: name,
        from: ip,
        isAdmin: role === "admin",
        method,
        path: (url.split("?", 1)[0] ?? "").slice(0, maxPathCharacters),
        status: reply.statusCode,
        outcome: request[outcomeKey] ?? null,
        requestId: id,
      });
    }
    done();
  });
};

const tooOften = (detail: string): Problem => new Problem("rate-exceeded", detail, { retryAfterSeconds: 1 });

/**
 * Who asks. An address that was refused too often is told that instead; its tokens are still looked up, which is cheap,
 * since others may be behind the same address.
 */
const identifier = (settings: () => EndpointSettings): ((request: FastifyRequest) => Promise<Identity>) => {
  const authenticator = createAuthenticator(settings);
  const refused = new Rates(() => performance.now());
  return async ({ headers, ip }) => {
    const most = Math.min(maxRefusedPerSecond, settings().requestsPerSecond);
    try {
      return await authenticator.identify(headers.authorization, () => !refused.isSpent(clientOf(ip), most));
    } catch (error) {
      if (refused.take(clientOf(ip), most)) throw error;
      throw tooOften(`this address was refused ${most} times in this second`);
    }
  };
};

/** Says what an administrator's request came to, for the audit log. */
export const tellOutcome = (request: FastifyRequest, outcome: string): void => {
  (request as Identified)[outcomeKey] = outcome;
};

/** The rights of a request to a table, by what `registerSecurity` found out. */
export const authorize: Authorize = (request, { table, right }) => {
  const identity = (request as Identified)[identityKey];
  if (identity === undefined) {
    throw new Problem("token-missing", "send a token: Authorization: Bearer TOKEN");
  }
  mustBeAllowed(identity, right, table);
  return { name: identity.name };
};
