import type { FastifyRequest } from "fastify";
import { isLoopback } from "../../regions/loopback.ts";
import { plainAddress } from "../client-places.ts";
import { Problem } from "../problems.ts";

/**
 * Where no token is asked for, being on this machine is what allows a request: then a page of the web, in a browser on this
 * machine, must not get in. A name of the page's own that leads to this address (DNS rebinding) is told by Host, a request
 * across sites by Origin. Programs send no Origin.
 *
 * An endpoint that asks nobody for a token begins to listen on loopback only. One that has asked listens wherever it was told,
 * also when the configuration is changed and asks no more: what comes from other machines is refused then.
 * @param hosts names beside those of loopback
 * @throws Problem `token-missing`, `host-unknown`, `origin-refused`
 */
export const mustBeLocal = ({ headers, ip }: FastifyRequest, hosts: () => readonly string[]): void => {
  if (!isLoopback(plainAddress(ip))) {
    throw new Problem("token-missing", "without a token this endpoint answers on its own machine only", {
      headers: { "www-authenticate": 'Bearer realm="coregent"' },
    });
  }
  const { host, origin } = headers;
  const isOurs = (name: string): boolean => isLoopback(name) || hosts().includes(name);
  if (host !== undefined && !isOurs(nameOf(host))) {
    throw new Problem(
      "host-unknown",
      "without a token this endpoint answers to localhost, 127.0.0.1, [::1] and the host of the region's api URL",
    );
  }
  if (origin !== undefined && !isOurs(nameOf(/^https?:\/\/(.*)$/.exec(origin)?.[1] ?? ""))) {
    throw new Problem("origin-refused", "pages of other sites may not use this endpoint without a token");
  }
};

/** Of `name:port`, in small letters; empty for what is none. */
const nameOf = (authority: string): string =>
  /^(\[[^\]]*\]|[^:]*)(?::\d*)?$/.exec(authority)?.[1]?.toLowerCase() ?? "";
