import type { ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { Problem, problemCodes } from "../problems.ts";
import { endInOrder } from "./linger.ts";
import { SessionTokenInvalid } from "../write/session-token.ts";
import { problemOf } from "../write/sql-problems.ts";

/** Errors as RFC 9457 problems, without a stack or a path of ours. */

export const problemType = "application/problem+json; charset=utf-8";

/** What Fastify itself refuses, by its codes. */
const byFastifyCode: Readonly<Record<string, (error: FastifyError) => Problem>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: () => new Problem("too-large", "the body has more bytes than are taken"),
  FST_ERR_CTP_INVALID_MEDIA_TYPE: () =>
    new Problem("content-type-unsupported", "the body has to be application/json"),
  FST_ERR_CTP_EMPTY_JSON_BODY: () => new Problem("body-malformed", "the body is empty"),
  FST_ERR_CTP_INVALID_JSON_BODY: () => new Problem("body-malformed", "the body is no JSON"),
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: () =>
    new Problem("body-malformed", "the body has another length than Content-Length says"),
  FST_ERR_BAD_URL: () => new Problem("parameter-invalid", "the path is not percent-encoded UTF-8"),
  FST_ERR_MAX_PARAM_LENGTH: () => new Problem("parameter-invalid", "a part of the path is too long"),
  FST_ERR_VALIDATION: (error) =>
    new Problem(error.validationContext === "body" ? "body-invalid" : "parameter-invalid", error.message),
};

/** Any error as a problem. What nobody foresaw is `internal`, and tells nothing of itself. */
export const problemFrom = (error: unknown): Problem => {
  if (error instanceof SessionTokenInvalid) return new Problem("parameter-invalid", error.message);
  const { code, statusCode } = error as Partial<FastifyError>;
  const known = typeof code === "string" ? byFastifyCode[code] : undefined;
  if (known !== undefined) return known(error as FastifyError);
  if (!(error instanceof Problem) && statusCode !== undefined && statusCode >= 400 && statusCode < 500) {
    // Of the pages, which have no body.
    return statusCode === 403 || statusCode === 404
      ? new Problem("not-found", "there is nothing at this address")
      : new Problem("body-malformed", (error as Error).message);
  }
  return problemOf(error);
};

interface About {
  readonly region: string;
  readonly requestId?: string;
}

/** The members of the answer, in order. */
export const problemBody = (problem: Problem, about: About): Record<string, unknown> => {
  const { code, status, retryable, facts } = problem;
  const { sqlState, operation, constraint, column, region } = facts;
  const members = {
    type: `urn:coregent:problem:${code}`,
    title: problemCodes[code].title,
    status,
    detail: problem.message,
    code,
    retryable,
    region: region ?? about.region,
    requestId: about.requestId,
    sqlState,
    operation,
    constraint,
    column,
  };
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined));
};

const usualRetryAfterSeconds = 1;

export const sendProblem = (
  request: FastifyRequest,
  reply: FastifyReply,
  problem: Problem,
  region: string,
) => {
  const { status, facts } = problem;
  const always = status === 429 || status === 503;
  const retryAfterSeconds = facts.retryAfterSeconds ?? (always ? usualRetryAfterSeconds : null);
  if (retryAfterSeconds !== null) reply.header("retry-after", String(retryAfterSeconds));
  return reply
    .code(status)
    .headers({ ...facts.headers })
    .type(problemType)
    .send(JSON.stringify(problemBody(problem, { region, requestId: request.id })));
};

export interface ProblemOptions {
  readonly region: string;
  /** Of problems that are ours, not the caller's. */
  readonly onInternal: (problem: Problem, request: FastifyRequest) => void;
}

/** Every error of every route below `server`, and addresses that there are not. */
export const addProblems = (server: FastifyInstance, { region, onInternal }: ProblemOptions): void => {
  server.setNotFoundHandler((request, reply) => {
    const problem = new Problem("not-found", `there is nothing at this address for ${request.method}`);
    return sendProblem(request, reply, problem, region);
  });
  server.setErrorHandler((error, request, reply) => {
    const problem = problemFrom(error);
    if (problem.code === "internal") onInternal(problem, request);
    return sendProblem(request, reply, problem, region);
  });
};

const tooSlow = new Problem("request-timeout", "the request did not arrive in time");

/** Connections that take no further request. */
const ended = new WeakSet<Socket>();

/** What Node refuses before there is a request: bytes that are no HTTP, headers too long or too slow. */
export const answerClientError =
  (region: string) =>
  (error: NodeJS.ErrnoException, socket: Socket): void => {
    // Bytes behind those that were refused are refused by Node once more.
    if (ended.has(socket)) return;
    ended.add(socket);
    if (error.code === "ECONNRESET" || !socket.writable) {
      socket.destroy(error);
      return;
    }
    refuse(socket, rawAnswer(error.code ?? "", region));
  };

/** Behind the answers to earlier requests of the same connection, and not into one of them. */
const refuse = (socket: Socket, answer: string): void => {
  const response = answering(socket);
  if (response === null) {
    socket.write(answer);
    endInOrder(socket);
  } else if (response.req.complete) {
    response.once("close", () => setImmediate(refuse, socket, answer));
  } else {
    // It is this request that is broken.
    if (!response.headersSent) socket.write(answer);
    endInOrder(socket);
  }
};

/** The answer that the connection carries now. Node's types leave it out. */
const answering = (socket: Socket): ServerResponse | null =>
  (socket as { readonly _httpMessage?: ServerResponse | null })._httpMessage ?? null;

const rawAnswer = (code: string, region: string): string => {
  if (code === "ERR_HTTP_REQUEST_TIMEOUT") return rawProblem("408 Request Timeout", tooSlow, region);
  if (code === "HPE_HEADER_OVERFLOW") {
    const problem = new Problem("parameter-invalid", "the headers are too long");
    return rawProblem("431 Request Header Fields Too Large", problem, region);
  }
  const problem = new Problem("body-malformed", "this is not HTTP");
  return rawProblem("400 Bad Request", problem, region);
};

const rawProblem = (line: string, problem: Problem, region: string): string => {
  const body = JSON.stringify({ ...problemBody(problem, { region }), status: Number(line.slice(0, 3)) });
  return (
    `HTTP/1.1 ${line}\r\nContent-Type: ${problemType}\r\nConnection: close\r\n` +
    `Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`
  );
};
