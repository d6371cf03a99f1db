import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { type Static, type TSchema, Type } from "typebox";
import { Compile } from "typebox/compile";
import { Problem } from "../problems.ts";
import type { CatalogTable } from "../write/catalog.ts";
import type { JsonObject, Key, Operation, OperationResult, Returning } from "../write/operation.ts";
import type { ApiBounds, ApiParts } from "./api-parts.ts";
import { Exchange } from "./exchange.ts";
import { etag, parseMatch, refuseOthers } from "./headers.ts";
import { parseListQuery } from "./query-string.ts";
import { rowsOf, rowValues } from "./row-routes.ts";
import { answered, problems, writeHeaders } from "./row-route-schemas.ts";
import {
  operationSchemas,
  requireForm,
  Transaction,
  TransactionAnswer,
  TransactionFrame,
} from "./schemas.ts";

type Forms = { readonly [Op in keyof typeof operationSchemas]: Static<(typeof operationSchemas)[Op]> };
type Given = Forms[keyof Forms];

const frame = Compile(TransactionFrame);
const forms = new Map(
  Object.entries(operationSchemas).map(([op, schema]) => [op, Compile(schema as TSchema)] as const),
);

/** `POST /v1/transactions`: a list of operations, all or none, at one master. */
export const registerTransactions = (app: FastifyInstance, parts: ApiParts): void => {
  app.post(
    "/v1/transactions",
    {
      bodyLimit: parts.bounds.maxBodyBytes,
      // Checked by hand below, so that a mistake is named where it is.
      validatorCompiler: () => () => true,
      schema: {
        tags: ["transactions"],
        summary: "Several operations, all or none",
        description: "They run in their order at one master. One that is refused undoes those before it.",
        headers: Type.Object(writeHeaders),
        body: Transaction,
        response: { 200: answered(TransactionAnswer), ...problems },
      },
    },
    (request, reply) => runTransaction(parts, request, reply),
  );
};

const runTransaction = async (parts: ApiParts, request: FastifyRequest, reply: FastifyReply) => {
  refuseOthers(request.headers, []);
  const exchange = new Exchange(parts, request, reply);
  const given = operationsOf(request.body, parts.bounds);
  const minimal = exchange.preferences.return === "minimal";
  const operations: Operation[] = [];
  for (const [at, one] of given.entries()) {
    const right = one.op === "select" ? "read" : "write";
    const table = await exchange.table(one.table, right);
    operations.push(inPlace(at, () => operationOf(one, table, { bounds: parts.bounds, minimal })));
  }
  const { results } = await exchange.write(operations);
  return reply
    .type("application/json; charset=utf-8")
    .send(`{"results":[${results.map(resultText).join(",")}]}`);
};

/** @throws Problem `body-invalid`, `too-large` */
const operationsOf = (body: unknown, { maxOperations }: ApiBounds): Given[] => {
  requireForm(frame, body);
  const { operations } = body as { readonly operations: readonly unknown[] };
  if (operations.length > maxOperations) {
    throw new Problem("too-large", `a transaction takes at most ${maxOperations} operations`);
  }
  return operations.map((one, at) => {
    const op: unknown = typeof one === "object" && one !== null && "op" in one ? one.op : undefined;
    const form = typeof op === "string" ? forms.get(op) : undefined;
    const place = `/operations/${at}`;
    if (form === undefined) {
      throw new Problem("body-invalid", `"${place}/op" has to be one of ${[...forms.keys()].join(", ")}`);
    }
    requireForm(form, one, place);
    return one as Given;
  });
};

const inPlace = <T>(operation: number, work: () => T): T => {
  try {
    return work();
  } catch (error) {
    throw error instanceof Problem ? error.with({ operation }) : error;
  }
};

const keyText = (part: unknown): string => (typeof part === "string" ? part : JSON.stringify(part));
const keyOf = (key: unknown): Key => (Array.isArray(key) ? key.map(keyText) : [keyText(key)]);

interface Wanted {
  readonly bounds: ApiBounds;
  /** Nothing is wanted back of writes, where they do not say themselves. */
  readonly minimal: boolean;
}

const returningOf = (given: readonly string[] | boolean | undefined, { minimal }: Wanted): Returning => {
  if (given === undefined) return minimal ? [] : null;
  return typeof given === "boolean" ? (given ? null : []) : given;
};

const operationOf = (given: Given, { name: table }: CatalogTable, wanted: Wanted): Operation => {
  switch (given.op) {
    case "insert":
      return {
        kind: "insert",
        table,
        rows: rowsOf(given.rows, wanted.bounds.maxRows),
        returning: returningOf(given.returning, wanted),
      };
    case "upsert":
      return {
        kind: "upsert",
        table,
        rows: rowsOf(given.rows, wanted.bounds.maxRows),
        replace: given.replace ?? false,
        ifMatch: null,
        ifNoneMatch: null,
        returning: returningOf(given.returning, wanted),
      };
    case "update":
      return {
        kind: "update",
        table,
        key: keyOf(given.key),
        values: rowValues(given.set as JsonObject),
        ifMatch: parseMatch(given.ifMatch, "ifMatch"),
        returning: returningOf(given.returning, wanted),
      };
    case "delete":
      return {
        kind: "delete",
        table,
        key: keyOf(given.key),
        ifMatch: parseMatch(given.ifMatch, "ifMatch"),
        returning: returningOf(given.returning, wanted),
      };
    case "select":
      return selectOf(given, table, wanted.bounds);
    default:
      return given satisfies never;
  }
};

const selectOf = (given: Forms["select"], table: string, { pageRows, maxPageRows }: ApiBounds): Operation => {
  const query = parseListQuery(`?${given.query ?? ""}`);
  return {
    kind: "select",
    table,
    key: given.key === undefined ? null : keyOf(given.key),
    ...query,
    limit: Math.min(query.limit ?? pageRows, maxPageRows),
    count: false,
  };
};

const resultText = (result: OperationResult): string => {
  const etags = JSON.stringify(result.versions.map(etag));
  const next = result.next === null ? "" : `,"next":${JSON.stringify(result.next)}`;
  return `{"table":${JSON.stringify(result.table)},"rows":[${result.rows.join(",")}],"etags":${etags}${next}}`;
};
