import { isLoopback } from "../../regions/loopback.ts";
import { postgresAddress } from "../../regions/secret.ts";

/** On this machine: loopback, or a folder of Unix sockets. */
const isLocal = (host: string): boolean => isLoopback(host) || /^(?:\/|%2F)/i.test(host);

/**
 * The URL of a PostgreSQL server, with `sslmode=verify-full` where it says nothing of TLS and the server is not on this
 * machine. Who wants clear text on a network that he trusts says `sslmode=disable`, and who has certificates of his own
 * `sslrootcert=FILE`.
 */
export const withTls = (postgresUrl: string): string => {
  const url = new URL(postgresUrl);
  if (isLocal(postgresAddress(url).host) || url.searchParams.has("sslmode") || url.searchParams.has("ssl")) {
    return postgresUrl;
  }
  // Put behind, as text: writing the URL anew could change how the password is encoded.
  const [whole, fragment] = postgresUrl.split("#", 2);
  const separator = url.search === "" ? "?" : "&";
  return `${whole}${separator}sslmode=verify-full${fragment === undefined ? "" : `#${fragment}`}`;
};

/** The server speaks no TLS, and the connection goes over a network. */
export class NoTls extends Error {
  readonly reaction = "stop";

  constructor(cause: unknown) {
    super("the server does not support TLS; on a network that you trust, put sslmode=disable into its URL", {
      cause,
    });
  }
}

/** The driver gives this error no code. */
export const refusesTls = (error: unknown): boolean =>
  error instanceof Error && error.message === "The server does not support SSL connections";
