import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { Problem } from "../problems.ts";
import type { CatalogTable } from "../write/catalog.ts";
import {
  type JsonObject,
  type Key,
  type OperationResult,
  type Returning,
  type RowValues,
  selectRow,
} from "../write/operation.ts";
import type { WriteOutcome } from "../write/writer.ts";
import type { ApiParts } from "./api-parts.ts";
import { Exchange } from "./exchange.ts";
import { etag, keyPath, parseKeyPath, parseMatch, refuseOthers } from "./headers.ts";
import { parseListQuery, parameters, parseSelectOnly } from "./query-string.ts";
import * as described from "./row-route-schemas.ts";

const jsonType = "application/json; charset=utf-8";
type TableRequest = FastifyRequest<{ Params: { table: string } }>;
type RowRequest = FastifyRequest<{ Params: { table: string; key: string } }>;

/** `/v1/tables/{table}/rows` and its rows. */
export const registerRows = (app: FastifyInstance, parts: ApiParts): void => {
  const rows = "/v1/tables/:table/rows";
  const row = `${rows}/:key`;
  const bodyLimit = parts.bounds.maxBodyBytes;
  app.post(rows, { schema: described.insert, bodyLimit }, (request: TableRequest, reply) =>
    insertRows(parts, request, reply),
  );
  app.get(rows, { schema: described.list }, (request: TableRequest, reply) =>
    listRows(parts, request, reply),
  );
  app.get(row, { schema: described.get }, (request: RowRequest, reply) => getRow(parts, request, reply));
  app.patch(row, { schema: described.patch, bodyLimit }, (request: RowRequest, reply) =>
    patchRow(parts, request, reply),
  );
  app.put(row, { schema: described.put, bodyLimit }, (request: RowRequest, reply) =>
    putRow(parts, request, reply),
  );
  app.delete(row, { schema: described.remove, bodyLimit }, (request: RowRequest, reply) =>
    deleteRow(parts, request, reply),
  );
};

export const rowValues = (row: JsonObject): RowValues => new Map(Object.entries(row));

/** Rows of one body. @throws Problem `too-large` */
export const rowsOf = (body: unknown, maxRows: number): RowValues[] => {
  const rows = (Array.isArray(body) ? body : [body]) as JsonObject[];
  if (rows.length > maxRows) throw new Problem("too-large", `a request takes at most ${maxRows} rows`);
  return rows.map(rowValues);
};

/** The key as the path has it, before Fastify decodes its commas. */
const keyOf = (request: RowRequest, table: CatalogTable): Key => {
  const [path = ""] = request.url.split("?", 1);
  return parseKeyPath(path.slice(path.lastIndexOf("/") + 1), table.key.length);
};

const wanted = (exchange: Exchange, usual: "minimal" | "representation"): Returning => {
  const columns = parseSelectOnly(exchange.request.url);
  return (exchange.preferences.return ?? usual) === "minimal" ? [] : columns;
};

const first = (outcome: WriteOutcome): OperationResult => {
  const [result] = outcome.results;
  if (result === undefined) throw new Problem("internal", "the writer gave no result");
  return result;
};

const location = (table: string, key: Key): string =>
  `/v1/tables/${encodeURIComponent(table)}/rows/${keyPath(key)}`;

/** The one row of a result, or nothing where none was wanted. */
const sendRow = (reply: FastifyReply, result: OperationResult, status: number) => {
  const [version] = result.versions;
  if (version !== undefined) reply.header("etag", etag(version));
  const [row] = result.rows;
  if (row === undefined) return reply.code(status === 200 ? 204 : status).send();
  return reply.code(status).type(jsonType).send(row);
};

const insertRows = async (parts: ApiParts, request: TableRequest, reply: FastifyReply) => {
  refuseOthers(request.headers, []);
  const exchange = new Exchange(parts, request, reply);
  const rows = rowsOf(request.body, parts.bounds.maxRows);
  const returning = wanted(exchange, "representation");
  const table = request.params.table;
  const outcome = await exchange.write([
    exchange.preferences.mergeDuplicates
      ? { kind: "upsert", table, rows, replace: false, ifMatch: null, ifNoneMatch: null, returning }
      : { kind: "insert", table, rows, returning },
  ]);
  const result = first(outcome);
  const status = result.created.includes(true) || result.created.length === 0 ? 201 : 200;
  if (Array.isArray(request.body)) {
    reply.code(status);
    return returning?.length === 0 ? reply.send() : reply.type(jsonType).send(`[${result.rows.join(",")}]`);
  }
  const [key] = result.keys;
  // A trigger may have kept the row out.
  if (key === undefined) throw new Problem("refused-by-database", "a trigger of the table kept the row out");
  reply.header("location", location(result.table, key));
  return sendRow(reply, result, status);
};

const getRow = async (parts: ApiParts, request: RowRequest, reply: FastifyReply) => {
  const exchange = new Exchange(parts, request, reply);
  const columns = parseSelectOnly(request.url);
  const known = parseMatch(request.headers["if-none-match"], "If-None-Match");
  const table = await exchange.table(request.params.table, "read");
  const outcome = await exchange.read(selectRow(table.name, keyOf(request, table), columns));
  const [result] = outcome.results;
  const [version] = result?.versions ?? [];
  if (result === undefined || version === undefined)
    throw new Problem("internal", "the writer gave no result");
  const tag = etag(version);
  if (known === "any" || known?.some((other) => etag(other) === tag) === true) {
    return reply.code(304).header("etag", tag).send();
  }
  return sendRow(reply, result, 200);
};

const patchRow = async (parts: ApiParts, request: RowRequest, reply: FastifyReply) => {
  refuseOthers(request.headers, ["if-match"]);
  const exchange = new Exchange(parts, request, reply);
  const ifMatch = parseMatch(request.headers["if-match"], "If-Match");
  const returning = wanted(exchange, "representation");
  const table = await exchange.table(request.params.table, "write");
  const values = rowValues(request.body as JsonObject);
  const key = keyOf(request, table);
  const outcome = await exchange.write([
    { kind: "update", table: table.name, key, values, ifMatch, returning },
  ]);
  return sendRow(reply, first(outcome), 200);
};

const putRow = async (parts: ApiParts, request: RowRequest, reply: FastifyReply) => {
  const exchange = new Exchange(parts, request, reply);
  const ifMatch = parseMatch(request.headers["if-match"], "If-Match");
  const ifNoneMatch = parseMatch(request.headers["if-none-match"], "If-None-Match");
  if (ifNoneMatch !== null && ifNoneMatch !== "any") {
    throw new Problem("parameter-invalid", "If-None-Match of a PUT takes * only");
  }
  const returning = wanted(exchange, "representation");
  const table = await exchange.table(request.params.table, "write");
  const row = withKey(table, keyOf(request, table), rowValues(request.body as JsonObject));
  const operation = {
    kind: "upsert",
    table: table.name,
    rows: [row],
    replace: true,
    ifMatch,
    returning,
  } as const;
  const outcome = await exchange.write([{ ...operation, ifNoneMatch }]);
  const result = first(outcome);
  return sendRow(reply, result, result.created[0] === true ? 201 : 200);
};

/** The address names the key; a body may name it too, but no other. */
const withKey = (table: CatalogTable, key: Key, row: RowValues): RowValues => {
  if (key.length !== table.key.length) {
    throw new Problem("parameter-invalid", `the key of ${table.name} has ${table.key.length} part(s)`);
  }
  const values = new Map(row);
  for (const [at, column] of table.key.entries()) {
    const given = row.get(column.name);
    const text = typeof given === "string" ? given : JSON.stringify(given);
    if (given !== undefined && text !== key[at]) {
      throw new Problem(
        "column-not-writable",
        `the body names another key than the address: ${column.name}`,
        {
          column: column.name,
        },
      );
    }
    values.set(column.name, key[at] ?? "");
  }
  return values;
};

const deleteRow = async (parts: ApiParts, request: RowRequest, reply: FastifyReply) => {
  refuseOthers(request.headers, ["if-match"]);
  const exchange = new Exchange(parts, request, reply);
  const ifMatch = parseMatch(request.headers["if-match"], "If-Match");
  const returning = wanted(exchange, "minimal");
  const table = await exchange.table(request.params.table, "write");
  const key = keyOf(request, table);
  const outcome = await exchange.write([{ kind: "delete", table: table.name, key, ifMatch, returning }]);
  return sendRow(reply, first(outcome), 200);
};

const listRows = async (parts: ApiParts, request: TableRequest, reply: FastifyReply) => {
  const exchange = new Exchange(parts, request, reply);
  const query = parseListQuery(request.url);
  const table = await exchange.table(request.params.table, "read");
  const { maxPageRows, pageRows } = parts.bounds;
  const outcome = await exchange.read({
    kind: "select",
    table: table.name,
    key: null,
    ...query,
    limit: Math.min(query.limit ?? pageRows, maxPageRows),
    count: exchange.preferences.countExact,
  });
  const [result] = outcome.results;
  if (result === undefined) throw new Problem("internal", "the writer gave no result");
  if (query.after === null) reply.header("content-range", contentRange(query.offset, result));
  if (result.next !== null) {
    reply.header("coregent-next", result.next);
    reply.header("link", `<${nextUrl(request.url, result.next)}>; rel="next"`);
  }
  return reply.type(jsonType).send(`[${result.rows.join(",")}]`);
};

const contentRange = (offset: number, { keys, count }: OperationResult): string => {
  const range = keys.length === 0 ? "*" : `${offset}-${offset + keys.length - 1}`;
  return `items ${range}/${count ?? "*"}`;
};

const nextUrl = (url: string, next: string): string => {
  const [path = ""] = url.split("?", 1);
  const kept = parameters(url).filter(([name]) => name !== "after" && name !== "offset");
  const pairs = [...kept, ["after", next] as const];
  return `${path}?${pairs.map((pair) => pair.map(encodeURIComponent).join("=")).join("&")}`;
};
