import { type TSchema, Type } from "typebox";
import { Compile } from "typebox/compile";
import { Problem } from "../problems.ts";

/** The forms of bodies and answers, as the API's description shows them. */

export const Row = Type.Record(Type.String(), Type.Unknown(), {
  description:
    "Column names and values. bigint and numeric come as strings, so that no digit is lost; both forms are taken.",
});

export const RowOrRows = Type.Union([Row, Type.Array(Row, { minItems: 1 })]);

export const ProblemSchema = Type.Object(
  {
    type: Type.String(),
    title: Type.String(),
    status: Type.Integer(),
    detail: Type.String(),
    code: Type.String({ description: "Stable; docs/errors.md says what each means." }),
    retryable: Type.Boolean({
      description: "The same request may succeed later, and nothing of it was done.",
    }),
    region: Type.String(),
    requestId: Type.String(),
    sqlState: Type.Optional(Type.String()),
    operation: Type.Optional(Type.Integer({ description: "Of a transaction's operations, from 0." })),
    constraint: Type.Optional(Type.String()),
    column: Type.Optional(Type.String()),
  },
  { title: "Problem" },
);

const table = Type.String({ minLength: 1, description: "`table` or `schema.table`" });
const Key = Type.Union([
  Type.String(),
  Type.Number(),
  Type.Array(Type.Union([Type.String(), Type.Number()]), { minItems: 1 }),
]);
const returning = Type.Optional(
  Type.Union([Type.Array(Type.String()), Type.Boolean()], {
    description: "Columns wanted back; true all (the default), false none.",
  }),
);
const ifMatch = Type.Optional(Type.String({ description: "As the header If-Match." }));
const closed = { additionalProperties: false };

/** By the member `op`. */
export const operationSchemas = {
  insert: Type.Object({ op: Type.Literal("insert"), table, rows: RowOrRows, returning }, closed),
  upsert: Type.Object(
    { op: Type.Literal("upsert"), table, rows: RowOrRows, replace: Type.Optional(Type.Boolean()), returning },
    closed,
  ),
  update: Type.Object({ op: Type.Literal("update"), table, key: Key, set: Row, ifMatch, returning }, closed),
  delete: Type.Object({ op: Type.Literal("delete"), table, key: Key, ifMatch, returning }, closed),
  select: Type.Object(
    {
      op: Type.Literal("select"),
      table,
      key: Type.Optional(Key),
      query: Type.Optional(
        Type.String({ description: "As behind the ? of a list: `name=eq.Ana&order=id&limit=10`." }),
      ),
    },
    closed,
  ),
} as const;

export const Transaction = Type.Object(
  { operations: Type.Array(Type.Union(Object.values(operationSchemas)), { minItems: 1 }) },
  { title: "Transaction", ...closed },
);

export const TransactionAnswer = Type.Object({
  results: Type.Array(
    Type.Object({
      table: Type.String(),
      rows: Type.Array(Row),
      etags: Type.Array(Type.String()),
      next: Type.Optional(Type.String({ description: "Of a select: where its next page begins." })),
    }),
    { description: "One of each operation, in their order." },
  ),
});

/** Checked one by one, so that a mistake is named where it is and not as a union that nothing matches. */
export const TransactionFrame = Type.Object(
  { operations: Type.Array(Type.Unknown(), { minItems: 1 }) },
  closed,
);

interface Checkable {
  readonly Check: (value: unknown) => boolean;
  readonly Errors: (value: unknown) => readonly { instancePath: string; message: string }[];
}

/** @throws Problem `body-invalid`, with the place below `at` */
export const requireForm = (form: Checkable, value: unknown, at = ""): void => {
  if (form.Check(value)) return;
  const [first] = form.Errors(value);
  const place = `${at}${first?.instancePath ?? ""}`;
  const where = place === "" ? "the body" : JSON.stringify(place.slice(0, 100));
  const what =
    first?.message === "schema is false" ? "is not known here" : (first?.message ?? "does not fit");
  throw new Problem("body-invalid", `${where} ${what}`);
};

/** For Fastify: bodies and parameters by TypeBox, nothing changed on the way. */
export const validatorCompiler = ({
  schema,
  httpPart,
}: {
  schema: unknown;
  httpPart?: string | undefined;
}) => {
  const form = Compile(schema as TSchema);
  return (value: unknown): { value: unknown } | { error: Error } => {
    if (form.Check(value)) return { value };
    const [first] = form.Errors(value);
    const place = `${httpPart ?? ""}${first?.instancePath ?? ""}`;
    return { error: new Error(`${place} ${first?.message ?? "does not fit"}`) };
  };
};
