import { isLoopback } from "../../regions/loopback.ts";

/** Where the agent's endpoints are bound. */
export interface ListenAddress {
  readonly host: string;
  readonly port: number;
}

/**
 * Out of the region's `api` URL, and bound to loopback only: the endpoints tell much and ask nobody who he is, so
 * opening them to a network is said aloud (`--listen HOST:PORT`). An api URL with another host than loopback keeps
 * its port: that is where a proxy or a container's port mapping points.
 */
export const listenAddress = (apiUrl: string): ListenAddress => {
  const url = new URL(apiUrl);
  const port = url.port === "" ? (url.protocol === "https:" ? 443 : 80) : Number(url.port);
  const host = url.hostname.replace(/^\[|\]$/g, "");
  return { host: isLoopback(host) ? host : "127.0.0.1", port };
};

/** Of `--listen`. Throws a TypeError for text that is no address. */
export const parseListen = (listen: string): ListenAddress => {
  const match = /^(?:\[([^\]]+)\]|([^:]*)):(\d{1,5})$/.exec(listen);
  const port = Number(match?.[3]);
  const host = match?.[1] ?? match?.[2];
  if (host === undefined || host === "" || port > 65_535) {
    throw new TypeError(`--listen takes HOST:PORT, such as 0.0.0.0:7400 or [::]:7400, not '${listen}'`);
  }
  return { host, port };
};
