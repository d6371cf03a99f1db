import rateLimit from "@fastify/rate-limit";
import type { FastifyInstance, FastifyRequest } from "fastify";
import type { EndpointSettings } from "../../regions/endpoint-settings.ts";
import { Problem } from "../problems.ts";
import type { Authorize } from "./api-parts.ts";
import { createAuthenticator, type Identity, mustBeAllowed } from "./authenticate.ts";

/** Whom a request is from, once it is known. */
const identityKey = Symbol("identity");
type Identified = FastifyRequest & { [identityKey]?: Identity };

/** What load balancers and browsers ask without a token: whether the region is well, and how to ask for more. */
const open = [
  /^\/(?:livez|readyz|health|primary|read-write|read-only|replica)$/,
  /^\/openapi\.json$/,
  /^\/docs(?:\/|$)/,
];

const noRateHeaders = {
  "x-ratelimit-limit": false,
  "x-ratelimit-remaining": false,
  "x-ratelimit-reset": false,
  "retry-after": false,
};

/** Of the route that was found, and not of the request: an address can be spelled in more than one way. */
const pathOf = ({ routeOptions }: FastifyRequest): string => routeOptions.url ?? "";

const isAdmins = (path: string): boolean => path.startsWith("/v1/admin/");

/** For the audit log: what was asked for at an administrator's address, also where it was refused. */
export interface AdminAction {
  /** The token's name; null: not known. */
  readonly by: string | null;
  readonly from: string;
  readonly method: string;
  readonly url: string;
  readonly status: number;
  readonly requestId: string;
}

/**
 * Who asks is found out before anything else of the request is looked at, and how often he asks is bounded. Addresses of
 * `/v1/admin/` are admin's; the others ask for their rights themselves (`authorize`).
 */
export const registerSecurity = async (
  app: FastifyInstance,
  settings: () => EndpointSettings,
  onAdminAction?: (action: AdminAction) => void,
): Promise<void> => {
  const authenticator = createAuthenticator(settings);
  app.addHook("onRequest", async (request: Identified) => {
    const path = pathOf(request);
    if (open.some((pattern) => pattern.test(path))) {
      return;
    }
    const identity = await authenticator.identify(request.headers.authorization);
    request[identityKey] = identity;
    mustBeAllowed(identity, isAdmins(path) ? "admin" : "read");
  });
  app.addHook("onResponse", (request: Identified, reply, done) => {
    const { method, url, ip, id } = request;
    if (isAdmins(pathOf(request)) && method !== "GET" && method !== "HEAD") {
      const by = request[identityKey]?.name ?? null;
      onAdminAction?.({ by, from: ip, method, url, status: reply.statusCode, requestId: id });
    }
    done();
  });
  await app.register(rateLimit, {
    timeWindow: 1_000,
    max: () => settings().requestsPerSecond,
    cache: 10_000,
    // `Retry-After` is enough for those who are refused.
    addHeaders: noRateHeaders,
    addHeadersOnExceeding: noRateHeaders,
    keyGenerator: (request: Identified) => {
      const identity = request[identityKey];
      return identity === undefined || identity.name === "anyone" ? request.ip : identity.name;
    },
    allowList: (request) => open.some((pattern) => pattern.test(pathOf(request))),
    errorResponseBuilder: (_request, { max }) =>
      new Problem("rate-exceeded", `this caller may send ${max} requests a second`, { retryAfterSeconds: 1 }),
  });
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
