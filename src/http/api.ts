import helmet from "@fastify/helmet";
import swagger from "@fastify/swagger";
import swaggerUi from "@fastify/swagger-ui";
import type { FastifyInstance, FastifyReply } from "fastify";
import { Problem } from "../problems.ts";
import { version } from "../version.ts";
import { parseJson } from "../write/exact-json.ts";
import type { ApiBounds, ApiParts } from "./api-parts.ts";
import { rawBody } from "./exchange.ts";
import { registerRows } from "./row-routes.ts";
import { registerTransactions } from "./transaction-routes.ts";

/**
 * The API of tables and transactions, in a scope of its own: bodies below it are JSON with every digit kept.
 * To be registered after `registerDescription`, which sees the routes that come later.
 */
export const registerApi = async (app: FastifyInstance, parts: ApiParts): Promise<void> => {
  await app.register((scope, _options, done) => {
    takeExactJson(scope);
    boundWork(scope, parts.bounds);
    registerRows(scope, parts);
    registerTransactions(scope, parts);
    done();
  });
};

const takeExactJson = (app: FastifyInstance): void => {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("application/json", { parseAs: "buffer" }, (request, body, done) => {
    try {
      const bytes = Buffer.isBuffer(body) ? body : Buffer.from(body);
      if (request.headers["idempotency-key"] !== undefined) request[rawBody] = bytes;
      // A DELETE may say that it sends JSON and send nothing.
      done(null, bytes.length === 0 && request.method === "DELETE" ? undefined : parseJson(bytes));
    } catch (error) {
      done(error as Error);
    }
  });
};

/**
 * Requests and their bodies beyond what can be held are refused before their bodies are read; so are lists, before they are
 * sent to clients that read slowly.
 */
const boundWork = (app: FastifyInstance, bounds: ApiBounds): void => {
  let requests = 0;
  let bytes = 0;
  const reserve = (reply: FastifyReply, length: number): void => {
    bytes += length;
    reply.raw.once("close", () => {
      bytes -= length;
    });
  };
  app.addHook("onRequest", (request, reply, done) => {
    const length = Number(request.headers["content-length"] ?? (hasBody(request.headers) ? Infinity : 0));
    const reserved = Math.min(Number.isNaN(length) ? Infinity : length, bounds.maxBodyBytes);
    if (requests >= bounds.maxRequestsUnderWay || bytes + reserved > bounds.maxBodyBytesUnderWay) {
      done(tooMuch());
      return;
    }
    requests += 1;
    reply.raw.once("close", () => {
      requests -= 1;
    });
    reserve(reply, reserved);
    done();
  });
  app.addHook("onSend", (request, reply, payload, done) => {
    const length = typeof payload === "string" ? payload.length : 0;
    // Of a write the answer is sent in any case: it was done.
    const refusable = request.method === "GET" && reply.statusCode === 200 && length > smallAnswer;
    if (refusable && bytes + length > bounds.maxBodyBytesUnderWay) {
      done(tooMuch());
      return;
    }
    reserve(reply, length);
    done(null, payload);
  });
};

const smallAnswer = 16 * 1024;
const tooMuch = (): Problem => new Problem("overloaded", "this endpoint has too much under way");

const hasBody = (headers: Readonly<Record<string, unknown>>): boolean =>
  headers["transfer-encoding"] !== undefined;

/** `/openapi.json`, and `/docs`, where it can be browsed and tried. */
export const registerDescription = async (app: FastifyInstance): Promise<void> => {
  await app.register(swagger, {
    openapi: {
      openapi: "3.1.0",
      info: {
        title: "Coregent",
        version,
        description:
          "The regional endpoint: rows of replicated tables, written at the right master and read nearby. " +
          "Errors are `application/problem+json`, each with a stable `code`.",
        license: { name: "Apache-2.0", identifier: "Apache-2.0" },
      },
      components: {
        securitySchemes: {
          bearer: {
            type: "http",
            scheme: "bearer",
            description: "A token of the configuration, or a JWT of its identity provider.",
          },
        },
      },
      // The second: where the configuration lists no tokens, or lets those without one read.
      security: [{ bearer: [] }, {}],
      tags: [
        { name: "agent", description: "How the region and its agent are" },
        { name: "routing", description: "Which master a write goes to, and which region is near" },
        { name: "admin", description: "For administrators" },
        { name: "rows", description: "Rows of replicated tables" },
        { name: "transactions", description: "Several operations, all or none" },
      ],
    },
  });
  await app.register(async (pages) => {
    // What the pages may load says the page's own policy.
    await pages.register(helmet, { contentSecurityPolicy: false });
    await pages.register(swaggerUi, {
      routePrefix: "/docs",
      staticCSP: true,
      // The endpoint may be plain http: a browser that upgraded what the page asks for would get nothing.
      transformStaticCSP: (policy) => policy.replace(" upgrade-insecure-requests;", ""),
    });
  });
  app.get("/openapi.json", { schema: { hide: true } }, () => app.swagger());
};
