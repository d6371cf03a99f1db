/**
 * A text that must not be printed by accident. `String()`, template literals, `JSON.stringify` and `util.inspect`
 * (so also pino and console) show the mask; `reveal()` is the only way to the text and is easy to search for.
 */
export class Secret {
  readonly #text: string;
  readonly #mask: string;

  constructor(text: string, mask = "***") {
    this.#text = text;
    this.#mask = mask;
  }

  reveal(): string {
    return this.#text;
  }

  toString(): string {
    return this.#mask;
  }

  toJSON(): string {
    return this.#mask;
  }

  // The symbol is registered globally, so that this needs no import of node:util.
  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return this.#mask;
  }
}

/** Parameters of a PostgreSQL URL whose values are no secrets; all others are masked. */
const harmless = new Set([
  "application_name",
  "connect_timeout",
  "host",
  "port",
  "sslmode",
  "sslnegotiation",
  "sslrootcert",
  "target_session_attrs",
]);

const maskedQuery = (query: URLSearchParams): string => {
  const pairs = [...query].map(([name, value]) => `${name}=${harmless.has(name) ? value : "***"}`);
  return pairs.length === 0 ? "" : `?${pairs.join("&")}`;
};

const decodes = (text: string): boolean => {
  try {
    decodeURIComponent(text);
    return true;
  } catch {
    return false;
  }
};

/** What is wrong with the URL, without repeating any of it. */
const urlProblem = (url: URL): string | null => {
  if (url.protocol !== "postgres:" && url.protocol !== "postgresql:") {
    return "must begin with postgres://";
  }
  // An unencoded "/", "?" or "#" in a password ends the host early, and the rest of the password would be taken for
  // a part that may be printed.
  if (`${url.pathname}${url.search}${url.hash}`.includes("@")) {
    return 'has an "@" after the host: percent-encode "/", "?", "#" and "@" in the password (%2F, %3F, %23, %40)';
  }
  if (![url.username, url.password, url.hostname, url.pathname].every(decodes)) {
    return 'has a "%" that encodes nothing: write %25 for a percent sign';
  }
  if (url.hash !== "") {
    return "must not contain an unencoded # (write %23)";
  }
  return url.pathname.length < 2 ? "names no database (postgres://user:password@host:5432/database)" : null;
};

/** Where a PostgreSQL URL leads, by the rules of libpq: as the URL has it, percent-encoded and with the brackets of IPv6. */
export const postgresAddress = (url: URL): { readonly host: string; readonly port: string } => ({
  host: url.hostname === "" ? (url.searchParams.get("host") ?? "localhost") : url.hostname,
  port: url.port === "" ? (url.searchParams.get("port") ?? "5432") : url.port,
});

/** Splits a PostgreSQL URL from its password. The problem never quotes the URL. */
export const readPostgresUrl = (
  text: string,
):
  | { readonly secret: Secret; readonly database: string; readonly problem?: never }
  | { readonly problem: string } => {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url === null) {
    return {
      problem:
        "is not a URL such as postgres://user:password@host:5432/database " +
        '(percent-encode "/", "?", "#", "@" and "%" in the password)',
    };
  }
  const problem = urlProblem(url);
  if (problem !== null) {
    return { problem };
  }
  const password = url.password === "" ? "" : ":***";
  const user = url.username === "" && password === "" ? "" : `${url.username}${password}@`;
  const mask = `${url.protocol}//${user}${url.host}${url.pathname}${maskedQuery(url.searchParams)}`;
  const { host, port } = postgresAddress(url);
  return { secret: new Secret(text, mask), database: `${host.toLowerCase()}:${port}${url.pathname}` };
};

/**
 * A PostgreSQL URL as a secret that shows as `postgres://app:***@host:5432/weightbook`.
 * @throws TypeError without the URL's text, if it is not a PostgreSQL URL with a database.
 */
export const postgresUrl = (text: string): Secret => {
  const read = readPostgresUrl(text);
  if (read.problem !== undefined) {
    throw new TypeError(`the PostgreSQL URL ${read.problem}`);
  }
  return read.secret;
};
