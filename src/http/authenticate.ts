import { createHash, timingSafeEqual } from "node:crypto";
import { createRemoteJWKSet, errors, type JWTPayload, type JWTVerifyGetKey, jwtVerify } from "jose";
import {
  type EndpointSettings,
  type JwtSettings,
  type Role,
  roles,
} from "../../regions/endpoint-settings.ts";
import { Problem } from "../problems.ts";

/** Who asks, and what he may do. */
export interface Identity {
  /** The token's name, or the subject of a JWT as `jwt:SUBJECT`; `anonymousName` where no token is asked for. */
  readonly name: string;
  readonly role: Role;
  /** `schema.table`; null: every table. */
  readonly tables: ReadonlySet<string> | null;
}

/** Of those without a token; no token can have it. */
export const anonymousName = "anyone without a token";

/** What a request needs. `read` and `write` are of a table. */
export type Right = "read" | "write" | "admin";

const roleFor: Readonly<Record<Right, Role>> = { read: "reader", write: "writer", admin: "admin" };

const maxTokenCharacters = 8_192;

/** Only signatures by which those who can check cannot sign. */
const algorithms = [
  "RS256",
  "RS384",
  "RS512",
  "PS256",
  "PS384",
  "PS512",
  "ES256",
  "ES384",
  "ES512",
  "EdDSA",
  "Ed25519",
];

export interface Authenticator {
  /**
   * @param authorization the header, or undefined
   * @param checksSignatures asked before a JWT is checked, which costs more than sending it; false: it is refused unseen
   * @throws Problem `token-missing`, `token-invalid`, `identity-unavailable`, `forbidden`
   */
  identify(authorization: string | undefined, checksSignatures?: () => boolean): Promise<Identity>;
}

/** @param settings asked at each request: tokens come and go while the agent runs */
export const createAuthenticator = (settings: () => EndpointSettings): Authenticator => {
  let keys: { readonly url: string; readonly find: JWTVerifyGetKey } | null = null;
  const keysOf = ({ jwks }: JwtSettings): JWTVerifyGetKey => {
    if (keys?.url !== jwks) {
      keys = { url: jwks, find: createRemoteJWKSet(new URL(jwks), { timeoutDuration: 3_000 }) };
    }
    return keys.find;
  };
  return {
    identify: async (authorization, checksSignatures = () => true) => {
      const endpoint = settings();
      if ((authorization ?? "") === "" && endpoint.anonymous !== null) {
        return { name: anonymousName, role: endpoint.anonymous, tables: null };
      }
      const token = bearerOf(authorization);
      const known = identifyByHash(endpoint, token);
      if (known !== null) {
        return known;
      }
      if (endpoint.jwt === null || token.split(".").length !== 3 || !checksSignatures()) {
        throw invalid();
      }
      return identifyByJwt(endpoint.jwt, token, keysOf(endpoint.jwt));
    },
  };
};

/** @throws Problem `forbidden` */
export const mustBeAllowed = (identity: Identity, right: Right, table?: string): void => {
  if (roles.indexOf(identity.role) < roles.indexOf(roleFor[right])) {
    throw new Problem(
      "forbidden",
      `this needs the role ${roleFor[right]}; ${identity.name} is ${identity.role}`,
    );
  }
  if (table !== undefined && identity.tables !== null && !identity.tables.has(table)) {
    throw new Problem("forbidden", `${identity.name} may not use the table ${table}`);
  }
};

const bearerOf = (authorization: string | undefined): string => {
  if (authorization === undefined || authorization === "") {
    throw new Problem("token-missing", "send a token: Authorization: Bearer TOKEN", {
      headers: { "www-authenticate": 'Bearer realm="coregent"' },
    });
  }
  const token = /^Bearer +([A-Za-z0-9\-._~+/]+=*)$/i.exec(authorization)?.[1];
  if (token === undefined || token.length > maxTokenCharacters) {
    throw invalid();
  }
  return token;
};

/** One answer for all that is wrong with a token: which part it was helps only who should not get in. */
const invalid = (cause?: unknown): Problem =>
  new Problem("token-invalid", "the token is not one that this endpoint takes, or is no longer", {
    headers: { "www-authenticate": 'Bearer realm="coregent", error="invalid_token"' },
    ...(cause === undefined ? {} : { cause }),
  });

/** Each hash is compared, and in a time that tells nothing of how much of it was right. */
const identifyByHash = ({ tokens }: EndpointSettings, token: string): Identity | null => {
  const hash = createHash("sha256").update(token).digest();
  let found: Identity | null = null;
  for (const { name, sha256, role, tables } of tokens) {
    if (timingSafeEqual(hash, Buffer.from(sha256, "hex"))) {
      found = { name, role, tables: tables === null ? null : new Set(tables) };
    }
  }
  return found;
};

const identifyByJwt = async (jwt: JwtSettings, token: string, keys: JWTVerifyGetKey): Promise<Identity> => {
  try {
    const { payload } = await jwtVerify(token, keys, {
      issuer: jwt.issuer,
      audience: jwt.audience,
      algorithms,
      requiredClaims: ["sub", "exp"],
      clockTolerance: 5,
    });
    return identityOf(payload, jwt);
  } catch (error) {
    if (saysNothingOfTheToken(error)) {
      throw new Problem("identity-unavailable", "the keys that tokens are checked with cannot be read", {
        retryAfterSeconds: 5,
        cause: error,
      });
    }
    throw error instanceof Problem ? error : invalid(error);
  }
};

/** The provider did not answer, not in time, or not with keys. */
const saysNothingOfTheToken = (error: unknown): boolean =>
  error instanceof errors.JOSEError
    ? ["ERR_JOSE_GENERIC", "ERR_JWKS_TIMEOUT", "ERR_JWKS_INVALID"].includes(error.code)
    : !(error instanceof Problem);

const maxNameCharacters = 128;

/** Rates and idempotency keys go by it, so a long subject must not become another's name when it is cut. */
const subjectName = (subject: string): string => {
  const name = `jwt:${subject}`;
  if (name.length <= maxNameCharacters) return name;
  const hash = createHash("sha256").update(subject).digest("base64url");
  return `${name.slice(0, maxNameCharacters - hash.length - 1)}~${hash}`;
};

const identityOf = (payload: JWTPayload, { roleClaim, tablesClaim }: JwtSettings): Identity => {
  const role = roles.find((each) => each === payload[roleClaim]);
  const tables: unknown = payload[tablesClaim];
  if (role === undefined) {
    throw new Problem(
      "forbidden",
      `the token's claim ${roleClaim} names none of the roles ${roles.join(", ")}`,
    );
  }
  if (tables !== undefined && !(Array.isArray(tables) && tables.every((each) => typeof each === "string"))) {
    throw new Problem("forbidden", `the token's claim ${tablesClaim} is not a list of tables`);
  }
  return {
    name: subjectName(payload.sub ?? ""),
    role,
    tables: tables === undefined ? null : new Set(tables),
  };
};
