import { type TSchema, Type } from "typebox";
import { ProblemSchema, Row, RowOrRows } from "./schemas.ts";

/** How the routes of rows are described. What they take of the path, the query and the headers is read by hand. */

const tags = ["rows"];

const tableParameter = Type.String({ description: "`table` or `schema.table`; replicated tables only." });
const keyParameter = Type.String({
  description: "The primary key; of several columns `a,b`. A comma within a part is `%2C`.",
});
const OfTable = Type.Object({ table: tableParameter });
const OfRow = Type.Object({ table: tableParameter, key: keyParameter });

const text = (description: string): TSchema => Type.Optional(Type.String({ description }));

const select = text("Columns wanted, with commas between; all without it.");

const sessionHeader = {
  "coregent-session": text("What the caller has seen: the header of an earlier answer, as it came."),
};
export const writeHeaders = {
  ...sessionHeader,
  prefer: text("`return=minimal|representation`, `durable=N` (regions), `wait=N` (seconds)."),
  "idempotency-key": text("One effect and one answer, however often the request comes with it."),
};
const ifMatch = text("ETags, one of which the row has to have; `*`: it has to be there.");

const shown = (description: string) => ({ type: "string", description });

const readAnswer = {
  "Coregent-Region": shown("The region that answered."),
  "Coregent-Session": shown("What the caller has seen now; to be sent with later requests to any region."),
  "Preference-Applied": shown("Of Prefer, what was understood and done."),
};
const ofRow = { ETag: shown("The row's version, for If-Match.") };
const writeAnswer = {
  ...readAnswer,
  "Coregent-Region": shown("The region whose master wrote."),
  "Coregent-Takeover": shown("true: in place of the row's owner, which is down."),
  "Coregent-Version": shown("The highest version that was written."),
  "Coregent-Once-Only": shown(
    "With Idempotency-Key. false: a region that could not be asked may have carried it out too.",
  ),
  "Idempotency-Replayed": shown("true: the answer of an earlier request with the same key."),
};
const listAnswer = {
  ...readAnswer,
  "Content-Range": shown("items FIRST-LAST/COUNT; * where it was not counted."),
  "Coregent-Next": shown("For `after`: where the next page begins; absent on the last one."),
  Link: shown("The next page, as rel=next."),
};

/** A schema of an answer with its headers, as the description shows them. */
export const answered = <T extends TSchema>(schema: T, headers: object = writeAnswer): T => ({
  ...schema,
  headers,
});

const refused = {
  description: "Refused, or failed; docs/errors.md says what each code means.",
  headers: { "Retry-After": shown("With 429 and 503: when to send it again, in seconds.") },
  content: { "application/problem+json": { schema: ProblemSchema } },
};
/** Answers of every route. */
export const problems = { "4xx": refused, "5xx": refused };
const row = answered(Row, { ...writeAnswer, ...ofRow });
const nothing = answered(Type.Null({ description: "As was preferred: nothing." }), {
  ...writeAnswer,
  ...ofRow,
});

const lists = Type.Object({
  select,
  order: text("`column.asc|desc.nullsfirst|nullslast`, with commas between. The key comes last by itself."),
  limit: text("At most so many rows; 100 without it, at most 1000."),
  offset: text("Rows passed over. For long lists `after` is the better way."),
  after: text("Goes on behind an earlier page: its header Coregent-Next, or follow its Link."),
  "{column}": text(
    "A filter: `eq.x`, and neq, gt, gte, lt, lte, like, ilike (`*` for any text), `in.(a,b)`, `is.null`; `not.` before.",
  ),
});

export const insert = {
  tags,
  summary: "Insert one row or several",
  description:
    "Several are one transaction. A key of one column that holds a ULID (uuid, text, char(26)) is made where it is absent. " +
    "`Prefer: resolution=merge-duplicates` changes rows that are there.",
  params: OfTable,
  querystring: Type.Object({ select }),
  headers: Type.Object(writeHeaders),
  body: RowOrRows,
  response: { 201: answered(RowOrRows), 200: answered(RowOrRows), ...problems },
};

export const list = {
  tags,
  summary: "List rows",
  params: OfTable,
  querystring: lists,
  headers: Type.Object({
    ...sessionHeader,
    prefer: text("`count=exact` counts all rows, in Content-Range; `wait=N` (seconds)."),
  }),
  response: { 200: answered(Type.Array(Row), listAnswer), ...problems },
};

export const get = {
  tags,
  summary: "Read a row",
  description: "The ETag is the row's version.",
  params: OfRow,
  querystring: Type.Object({ select }),
  headers: Type.Object({
    ...sessionHeader,
    "if-none-match": text("ETags that the caller has: 304."),
    prefer: text("`wait=N` (seconds) for what the session has seen."),
  }),
  response: {
    200: answered(Row, { ...readAnswer, ...ofRow }),
    304: Type.Null({ description: "The row is as the caller has it." }),
    ...problems,
  },
};

const writesRow = {
  tags,
  params: OfRow,
  querystring: Type.Object({ select }),
  headers: Type.Object({ ...writeHeaders, "if-match": ifMatch }),
};

export const patch = {
  ...writesRow,
  summary: "Change columns of a row",
  body: Row,
  response: { 200: row, 204: nothing, ...problems },
};

export const put = {
  ...writesRow,
  summary: "Make or replace a row",
  description: "Columns that are not named get their defaults, but for the owner of a row that is there.",
  headers: Type.Object({
    ...writeHeaders,
    "if-match": ifMatch,
    "if-none-match": text("`*`: the row must not be there."),
  }),
  body: Row,
  response: { 200: row, 201: row, 204: nothing, ...problems },
};

export const remove = {
  ...writesRow,
  summary: "Delete a row",
  description: "With `Prefer: return=representation`, the row as it was.",
  response: { 200: row, 204: nothing, ...problems },
};
