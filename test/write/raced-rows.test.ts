import type { ClientBase } from "pg";
import { expect, test } from "vitest";
import { runOperations } from "../../src/write/run-operations.ts";
import { createMaster, row } from "./fixture.ts";

/** Rows that come while a request looks for them. */

const schema = "CREATE TABLE t (id text PRIMARY KEY, x text)";

const update = {
  kind: "update",
  table: "t",
  key: ["k"],
  values: row({ x: "changed" }),
  ifMatch: null,
  returning: null,
} as const;

/** The session, in which something else happens before its second statement. */
const before2nd = (client: ClientBase, happen: () => Promise<unknown>): ClientBase => {
  let statements = 0;
  const query = (...args: readonly unknown[]): unknown => {
    statements += 1;
    const send = (): unknown =>
      Reflect.apply(Reflect.get(client, "query") as (...all: unknown[]) => unknown, client, args);
    return statements === 2 ? happen().then(send) : send();
  };
  return new Proxy(client, {
    get: (target, name) => (name === "query" ? query : Reflect.get(target, name, target)),
  });
};

test("a row that comes just after it was not found is written, and not taken for one that a trigger holds", async () => {
  await using master = await createMaster(schema);
  const client = before2nd(master.client, () => master.db.query("INSERT INTO t VALUES ('k', 'new')"));
  const [result] = await runOperations(client, master.catalog, [update]);
  expect(result?.rows).toEqual(['{"id":"k","x":"changed"}']);
  await expect(
    runOperations(master.client, master.catalog, [{ ...update, key: ["other"] }]),
  ).rejects.toMatchObject({
    code: "row-not-found",
  });
});
