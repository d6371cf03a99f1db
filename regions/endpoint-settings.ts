import { isLoopback } from "./loopback.ts";
import { parseTableName } from "./table-settings.ts";
import { type Field, type YamlReader } from "./yaml-reader.ts";

/** What a caller may do: each role may do what the one before may. */
export const roles = ["reader", "writer", "admin"] as const;
export type Role = (typeof roles)[number];

/** A token that the endpoint takes. The file holds its SHA-256 and not the token. */
export interface TokenSettings {
  /** Who has it: stands in the log, and bounds idempotency keys and the rate. */
  readonly name: string;
  /** Of the token's bytes, as 64 lower-case hexadecimal digits. */
  readonly sha256: string;
  readonly role: Role;
  /** `schema.table`; null: every table. */
  readonly tables: readonly string[] | null;
}

/** Tokens that an identity provider signs. */
export interface JwtSettings {
  /** Where its keys are: an https URL, or http on loopback. */
  readonly jwks: string;
  readonly issuer: string;
  readonly audience: string;
  /** The claim that holds the role. */
  readonly roleClaim: string;
  /** The claim that holds a list of tables; a token without it may use every table. */
  readonly tablesClaim: string;
}

export interface TlsFiles {
  /** Paths of PEM files; relative ones count from the agent's working directory. */
  readonly certificate: string;
  readonly key: string;
}

/** Who may use the HTTP endpoint, and how much. Where it asks for no token it listens on loopback only. */
export interface EndpointSettings {
  readonly tls: TlsFiles | null;
  readonly tokens: readonly TokenSettings[];
  readonly jwt: JwtSettings | null;
  /** What a request without a token may do; null: nothing. Never admin's part. */
  readonly anonymous: "reader" | "writer" | null;
  /** Of one token, or one address where no token is asked for. */
  readonly requestsPerSecond: number;
  /** Open at a time from one address, here and at the PostgreSQL entrance; of IPv6 a network of 64 bits counts as one. */
  readonly connectionsPerAddress: number;
  /** Addresses, or networks as `ADDRESS/BITS`, behind which many clients are, such as proxies: not bounded so. */
  readonly sharedAddresses: readonly string[];
  /**
   * How long an agent that stops goes on serving while it says that it is not ready, so that load balancers lead elsewhere
   * before its port is closed.
   */
  readonly stopPauseMs: number;
}

export const openEndpoint: EndpointSettings = {
  tls: null,
  tokens: [],
  jwt: null,
  anonymous: "writer",
  requestsPerSecond: 1_000,
  connectionsPerAddress: 1_000,
  sharedAddresses: ["127.0.0.0/8", "::1"],
  // Three checks at the usual `probeMs`, as `coregent haproxy-config` has it, and the time that they take.
  stopPauseMs: 2_000,
};

/** Whether callers must say who they are. */
export const asksForToken = ({ anonymous }: EndpointSettings): boolean => anonymous === null;

/** The `endpoint:` mapping. */
export const readEndpoint = (reader: YamlReader, field: Field | undefined): EndpointSettings => {
  const fields = reader.mapping(field, {
    required: [],
    optional: [
      "tls",
      "tokens",
      "jwt",
      "anonymous",
      "requestsPerSecond",
      "connectionsPerAddress",
      "sharedAddresses",
      "stopPauseMs",
    ],
  });
  const anonymous = reader.choice(fields?.anonymous, ["none", "reader", "writer"]);
  const isOpen = fields?.tokens === undefined && fields?.jwt === undefined;
  return {
    tls: readTls(reader, fields?.tls),
    tokens: readTokens(reader, fields?.tokens),
    jwt: readJwt(reader, fields?.jwt),
    anonymous: anonymous === undefined ? (isOpen ? "writer" : null) : anonymous === "none" ? null : anonymous,
    requestsPerSecond: reader.wholeNumber(fields?.requestsPerSecond, {
      usual: openEndpoint.requestsPerSecond,
      least: 1,
      most: 1_000_000,
    }),
    connectionsPerAddress: reader.wholeNumber(fields?.connectionsPerAddress, {
      usual: openEndpoint.connectionsPerAddress,
      least: 1,
      most: 1_000_000,
    }),
    sharedAddresses:
      fields?.sharedAddresses === undefined
        ? openEndpoint.sharedAddresses
        : readAddresses(reader, fields.sharedAddresses),
    stopPauseMs: reader.wholeNumber(fields?.stopPauseMs, {
      usual: openEndpoint.stopPauseMs,
      least: 0,
      most: 60_000,
    }),
  };
};

const readAddresses = (reader: YamlReader, field: Field): readonly string[] =>
  (reader.sequence(field) ?? []).flatMap((item) => {
    const text = reader.text(item);
    if (text === undefined || isNetwork(text.value)) return text === undefined ? [] : [text.value];
    reader.report(
      item,
      "must be an address such as 10.0.0.7 or 2001:db8::7, or a network such as 10.0.0.0/24",
    );
    return [];
  });

const isNetwork = (text: string): boolean => {
  const [address = "", bits, ...more] = text.split("/");
  const isIpv4 = /^(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?!$)|$)){4}$/.test(address);
  const isIpv6 = address.includes(":") && URL.canParse(`http://[${address}]`);
  const most = isIpv4 ? 32 : 128;
  const isLength = bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= most);
  return (isIpv4 || isIpv6) && isLength && more.length === 0;
};

const readTls = (reader: YamlReader, field: Field | undefined): TlsFiles | null => {
  const fields = reader.mapping(field, { required: ["certificate", "key"], optional: [] });
  const certificate = reader.text(fields?.certificate);
  const key = reader.text(fields?.key);
  return certificate === undefined || key === undefined
    ? null
    : { certificate: certificate.value, key: key.value };
};

const readTokens = (reader: YamlReader, field: Field | undefined): readonly TokenSettings[] => {
  const tokens: TokenSettings[] = [];
  for (const item of reader.sequence(field) ?? []) {
    const fields = reader.mapping(item, { required: ["name", "sha256", "role"], optional: ["tables"] });
    const name = reader.label(fields?.name);
    const sha256 = readHash(reader, fields?.sha256);
    const role = reader.choice(fields?.role, roles);
    const tables = fields?.tables === undefined ? null : readTableNames(reader, fields.tables);
    if (name === undefined || sha256 === undefined || role === undefined) {
      continue;
    }
    if (tokens.some((other) => other.name === name || other.sha256 === sha256)) {
      reader.report(item, "repeats the name or the hash of another: each token needs its own");
    }
    tokens.push({ name, sha256, role, tables });
  }
  return tokens;
};

/** What is wrong here may be the token itself: it is not repeated. */
const readHash = (reader: YamlReader, field: Field | undefined): string | undefined => {
  const text = reader.text(field);
  if (field === undefined || text === undefined) {
    return undefined;
  }
  const hash = text.value.toLowerCase();
  if (!/^[0-9a-f]{64}$/.test(hash)) {
    reader.report(field, "must be the token's SHA-256 in 64 hexadecimal digits: coregent token makes both");
    return undefined;
  }
  return hash;
};

const readTableNames = (reader: YamlReader, field: Field): readonly string[] =>
  (reader.sequence(field) ?? []).flatMap((item) => {
    const text = reader.text(item);
    const name = text === undefined ? undefined : parseTableName(text.value);
    if (text !== undefined && name === undefined) {
      reader.report(item, 'must be schema.table, such as public.workouts (or "My schema"."My.table")');
    }
    return name === undefined ? [] : [`${name.schema}.${name.table}`];
  });

const readJwt = (reader: YamlReader, field: Field | undefined): JwtSettings | null => {
  const fields = reader.mapping(field, {
    required: ["jwks", "issuer", "audience"],
    optional: ["roleClaim", "tablesClaim"],
  });
  const jwks = readJwksUrl(reader, fields?.jwks);
  const issuer = reader.text(fields?.issuer);
  const audience = reader.text(fields?.audience);
  const roleClaim = reader.text(fields?.roleClaim);
  const tablesClaim = reader.text(fields?.tablesClaim);
  return jwks === undefined || issuer === undefined || audience === undefined
    ? null
    : {
        jwks,
        issuer: issuer.value,
        audience: audience.value,
        roleClaim: roleClaim?.value ?? "coregent_role",
        tablesClaim: tablesClaim?.value ?? "coregent_tables",
      };
};

const readJwksUrl = (reader: YamlReader, field: Field | undefined): string | undefined => {
  const text = reader.text(field);
  if (field === undefined || text === undefined) {
    return undefined;
  }
  const url = URL.canParse(text.value) ? new URL(text.value) : null;
  const loopback = isLoopback(url?.hostname ?? "");
  if (url === null || (url.protocol !== "https:" && !(url.protocol === "http:" && loopback))) {
    reader.report(
      field,
      "must be an https URL (http only on loopback): keys that anyone may replace prove nothing",
    );
    return undefined;
  }
  return url.href;
};
