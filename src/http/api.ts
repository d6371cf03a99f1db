import type { IncomingHttpHeaders, ServerResponse } from "node:http";
import helmet from "@fastify/helmet";
import swagger from "@fastify/swagger";
import swaggerUi from "@fastify/swagger-ui";
import type { FastifyInstance } from "fastify";
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

const endOfWork = Symbol("it is not worked on any more");

declare module "fastify" {
  interface FastifyRequest {
    [endOfWork]?: () => void;
  }
}

const takeExactJson = (app: FastifyInstance): void => {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("application/json", { parseAs: "buffer" }, (request, body, done) => {
    try {
      mustBePlain(request.headers);
      const bytes = Buffer.isBuffer(body) ? body : Buffer.from(body);
      if (request.headers["idempotency-key"] !== undefined) request[rawBody] = bytes;
      // A DELETE may say that it sends JSON and send nothing.
      done(null, bytes.length === 0 && request.method === "DELETE" ? undefined : parseJson(bytes));
    } catch (error) {
      done(error as Error);
    }
  });
};

/** @throws Problem `content-type-unsupported` for bytes that would be taken for something else than they are */
const mustBePlain = (headers: IncomingHttpHeaders): void => {
  const type = headers["content-type"] ?? "";
  if (/charset\s*=\s*"?(?!utf-8)/i.test(type)) {
    throw new Problem("content-type-unsupported", "JSON has to be UTF-8");
  }
  if (!/^(?:identity)?$/i.test(headers["content-encoding"] ?? "")) {
    throw new Problem("content-type-unsupported", "the body may not be compressed (Content-Encoding)");
  }
};

/**
 * What can be held is bounded: bodies that are on their way, requests that have arrived and are worked on, answers that are
 * not taken. Each by itself, so that clients who send or read slowly do not use up what the others need; and what is small
 * is taken in any case, since the number of connections bounds it.
 */
const boundWork = (app: FastifyInstance, bounds: ApiBounds): void => {
  const bodies = new Budget(bounds.maxBodyBytesUnderWay);
  const answers = new Budget(bounds.maxAnswerBytesUnderWay);
  // Counted, not kept in a Set: V8 chains the tables that a Set outgrows, so that what it once held would survive minor collections.
  let working = 0;
  app.addHook("onRequest", ({ headers }, { raw }, done) => {
    const length = Number(headers["content-length"] ?? (hasBody(headers) ? Infinity : 0));
    const announced = Math.min(Number.isNaN(length) ? Infinity : length, bounds.maxBodyBytes);
    done(bodies.take(announced, raw) ? undefined : tooMuch());
  });
  app.addHook("preValidation", (request, { raw }, done) => {
    if (working >= bounds.maxRequestsUnderWay) {
      done(tooMuch());
      return;
    }
    working += 1;
    let over = false;
    const end = (): void => {
      if (!over) working -= 1;
      over = true;
    };
    request[endOfWork] = end;
    raw.once("close", end);
    done();
  });
  app.addHook("onSend", (request, reply, payload, done) => {
    request[endOfWork]?.();
    const length = typeof payload === "string" ? payload.length : 0;
    const taken = answers.take(length, reply.raw);
    // Of a write the answer is sent in any case: it was done.
    if (!taken && request.method === "GET" && reply.statusCode === 200) {
      done(tooMuch());
      return;
    }
    if (length > small) mustBeTaken(reply.raw, bounds.answerTimeoutMs);
    done(null, payload);
  });
};

const small = 16 * 1024;
const tooMuch = (): Problem => new Problem("overloaded", "this endpoint has too much under way");

/** Bytes that requests hold until they are answered. */
class Budget {
  readonly #maxBytes: number;
  #bytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Whether there was room; nothing small is counted, nor what nobody waits for any more. */
  take(bytes: number, response: ServerResponse): boolean {
    if (bytes <= small || response.closed) return true;
    if (this.#bytes + bytes > this.#maxBytes) return false;
    this.#bytes += bytes;
    response.once("close", () => {
      this.#bytes -= bytes;
    });
    return true;
  }
}

/**
 * Who takes an answer byte by byte holds all of it. The connection is cut off, and not the response alone: one that waits behind
 * the answers to earlier requests has no socket yet.
 */
const mustBeTaken = (response: ServerResponse, timeoutMs: number): void => {
  const timer = setTimeout(() => response.req.socket.destroy(), timeoutMs);
  timer.unref();
  response.once("close", () => clearTimeout(timer));
};

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
