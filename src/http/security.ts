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

/**
 * Who asks is found out before anything else of the request is looked at, and how often he asks is bounded. Addresses of
 * `/v1/admin/` are admin's; the others ask for their rights themselves (`authorize`).
 */
export const registerSecurity = async (
  app: FastifyInstance,
  settings: () => EndpointSettings,
): Promise<void> => {
  const authenticator = createAuthenticator(settings);
  app.addHook("onRequest", async (request: Identified) => {
    const path = pathOf(request);
    if (open.some((pattern) => pattern.test(path))) {
      return;
    }
    const identity = await authenticator.identify(request.headers.authorization);
    request[identityKey] = identity;
    mustBeAllowed(identity, path.startsWith("/v1/admin/") ? "admin" : "read");
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
