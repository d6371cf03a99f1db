import { createHash } from "node:crypto";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { exportJWK, generateKeyPair, SignJWT, UnsecuredJWT } from "jose";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type EndpointSettings, openEndpoint } from "../../regions/endpoint-settings.ts";
import { createAuthenticator, mustBeAllowed } from "../../src/http/authenticate.ts";

const sha256 = (token: string): string => createHash("sha256").update(token).digest("hex");

const tokens: EndpointSettings["tokens"] = [
  { name: "backend", sha256: sha256("t0ken-of-the-backend"), role: "writer", tables: null },
  { name: "report", sha256: sha256("t0ken-of-the-report"), role: "reader", tables: ["public.workouts"] },
];

const identify = async (settings: EndpointSettings, header?: string): Promise<unknown> =>
  createAuthenticator(() => settings)
    .identify(header)
    .catch((error: unknown) => (error as { code: string }).code);

describe("without a token", () => {
  test("anyone may write where nothing is configured, and is never admin", async () => {
    expect(await identify(openEndpoint)).toEqual({
      name: "anyone without a token",
      role: "writer",
      tables: null,
    });
  });

  test("what the configuration says, also beside tokens; a wrong token is not taken for none", async () => {
    const settings: EndpointSettings = { ...openEndpoint, tokens, anonymous: "reader" };
    expect(await identify(settings)).toMatchObject({ role: "reader" });
    expect(await identify(settings, "Bearer wrong")).toBe("token-invalid");
  });
});

describe("tokens by hash", () => {
  const settings: EndpointSettings = { ...openEndpoint, anonymous: null, tokens };

  test("are known, with their role and tables", async () => {
    expect(await identify(settings, "Bearer t0ken-of-the-backend")).toEqual({
      name: "backend",
      role: "writer",
      tables: null,
    });
    expect(await identify(settings, "bearer t0ken-of-the-report")).toMatchObject({
      role: "reader",
      tables: new Set(["public.workouts"]),
    });
  });

  test.each([
    ["none", undefined, "token-missing"],
    ["empty", "", "token-missing"],
    ["another scheme", "Basic dDBrZW4=", "token-invalid"],
    ["an unknown one", "Bearer t0ken-of-the-backenD", "token-invalid"],
    ["the hash instead of the token", `Bearer ${sha256("t0ken-of-the-backend")}`, "token-invalid"],
    ["one with more behind", "Bearer t0ken-of-the-backend extra", "token-invalid"],
    ["a huge one", `Bearer ${"x".repeat(100_000)}`, "token-invalid"],
    ["a JWT where none is taken", "Bearer aaaa.bbbb.cccc", "token-invalid"],
  ])("refused: %s", async (_name, header, code) => {
    expect(await identify(settings, header)).toBe(code);
  });

  test("one taken out of the configuration is refused at the next request", async () => {
    let current: EndpointSettings = settings;
    const authenticator = createAuthenticator(() => current);
    await authenticator.identify("Bearer t0ken-of-the-backend");
    current = { ...settings, tokens: tokens.slice(1) };
    await expect(authenticator.identify("Bearer t0ken-of-the-backend")).rejects.toMatchObject({
      code: "token-invalid",
    });
  });
});

describe("tokens that an identity provider signs", async () => {
  const { publicKey, privateKey } = await generateKeyPair("ES256");
  const other = await generateKeyPair("ES256");
  let server: Server;
  let settings: EndpointSettings;

  beforeAll(async () => {
    const jwk = { ...(await exportJWK(publicKey)), kid: "k1", alg: "ES256" };
    server = createServer((_request, response) => response.end(JSON.stringify({ keys: [jwk] })));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    settings = {
      ...openEndpoint,
      anonymous: null,
      jwt: {
        jwks: `http://127.0.0.1:${port}/jwks`,
        issuer: "https://id.example",
        audience: "coregent",
        roleClaim: "coregent_role",
        tablesClaim: "coregent_tables",
      },
    };
  });

  afterAll(() => {
    server.closeAllConnections();
    server.close();
  });

  const signed = (claims: Record<string, unknown> = {}, key = privateKey): Promise<string> =>
    new SignJWT({
      iss: "https://id.example",
      aud: "coregent",
      sub: "anna",
      exp: Math.trunc(Date.now() / 1000) + 60,
      coregent_role: "writer",
      ...claims,
    })
      .setProtectedHeader({ alg: "ES256", kid: "k1" })
      .sign(key);

  test("are known by their subject, role and tables", async () => {
    const token = await signed({ coregent_tables: ["public.workouts"] });
    expect(await identify(settings, `Bearer ${token}`)).toEqual({
      name: "jwt:anna",
      role: "writer",
      tables: new Set(["public.workouts"]),
    });
  });

  test("two long subjects are two callers, also where they differ at their ends only", async () => {
    const names = await Promise.all(
      ["a", "b"].map(async (end) => {
        const token = await signed({ sub: `${"x".repeat(300)}${end}` });
        const { name } = (await identify(settings, `Bearer ${token}`)) as { name: string };
        return name;
      }),
    );
    expect(names.map((name) => name.length)).toEqual([128, 128]);
    expect(names[0]).not.toBe(names[1]);
  });

  test.each([
    ["expired", { exp: 1_000_000 }, "token-invalid"],
    ["without an end", { exp: undefined }, "token-invalid"],
    ["without a subject", { sub: undefined }, "token-invalid"],
    ["of another issuer", { iss: "https://evil.example" }, "token-invalid"],
    ["for another audience", { aud: "elsewhere" }, "token-invalid"],
    ["without a role", { coregent_role: undefined }, "forbidden"],
    ["with an unknown role", { coregent_role: "root" }, "forbidden"],
    ["with tables that are no list", { coregent_tables: "public.workouts" }, "forbidden"],
  ])("refused: %s", async (_name, claims, code) => {
    expect(await identify(settings, `Bearer ${await signed(claims)}`)).toBe(code);
  });

  test("refused: signed by another key, changed, or not signed at all", async () => {
    expect(await identify(settings, `Bearer ${await signed({}, other.privateKey)}`)).toBe("token-invalid");
    const [header, , signature] = (await signed()).split(".");
    const [, admin] = (await signed({ coregent_role: "admin" })).split(".");
    expect(await identify(settings, `Bearer ${header}.${admin}.${signature}`)).toBe("token-invalid");
    const unsigned = new UnsecuredJWT({ sub: "anna", coregent_role: "admin" })
      .setIssuer("https://id.example")
      .setAudience("coregent")
      .setExpirationTime("1m")
      .encode();
    expect(await identify(settings, `Bearer ${unsigned}`)).toBe("token-invalid");
  });

  test("an identity provider that is away or ill is told apart from a bad token", async () => {
    const ill = createServer((_request, response) => response.writeHead(500).end());
    await new Promise<void>((resolve) => ill.listen(0, "127.0.0.1", resolve));
    const { port } = ill.address() as AddressInfo;
    const jwks = `http://127.0.0.1:${port}/jwks`;
    expect(await identify({ ...settings, jwt: { ...settings.jwt!, jwks } }, `Bearer ${await signed()}`)).toBe(
      "identity-unavailable",
    );
    ill.close();
    const away = { ...settings, jwt: { ...settings.jwt!, jwks: "http://127.0.0.1:9/jwks" } };
    expect(await identify(away, `Bearer ${await signed()}`)).toBe("identity-unavailable");
  });
});

describe("what an identity may do", () => {
  const reader = { name: "r", role: "reader", tables: new Set(["public.workouts"]) } as const;

  test("each role may do what the one before may", () => {
    const may = (role: "reader" | "writer" | "admin"): string[] =>
      (["read", "write", "admin"] as const).filter((right) => {
        try {
          mustBeAllowed({ name: "x", role, tables: null }, right);
          return true;
        } catch {
          return false;
        }
      });
    expect([may("reader"), may("writer"), may("admin")]).toEqual([
      ["read"],
      ["read", "write"],
      ["read", "write", "admin"],
    ]);
  });

  test("tables that it is not given are refused", () => {
    expect(() => mustBeAllowed(reader, "read", "public.workouts")).not.toThrow();
    expect(() => mustBeAllowed(reader, "read", "public.users")).toThrow("may not use the table public.users");
  });
});
