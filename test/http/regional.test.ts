import { expect, test } from "vitest";
import { startCluster } from "../../src/testing/index.ts";
import { eventually } from "../support/eventually.ts";
import { asking } from "./endpoints.ts";

const rows = "/v1/tables/notes/rows";

test("through the endpoints of three real agents: the owner writes, sessions read it elsewhere, and others take over", async () => {
  await using cluster = await startCluster({
    regions: 3,
    schema: "CREATE TABLE notes (id uuid PRIMARY KEY, body text NOT NULL, n bigint, home text)",
    tables: [{ name: "public.notes", owner: "home" }],
  });
  const ask = asking(cluster);
  // The first requests may come before the masters are known to be well.
  await eventually(async () => (await ask("a", ["GET", rows])).status === 200);

  const made = await ask("a", ["POST", rows], { body: "first", n: "9007199254740993", home: "b" });
  expect([made.status, made.headers.get("coregent-region")]).toEqual([201, "b"]);
  const row = `${rows}/${String(made.json["id"])}`;
  const session = { "coregent-session": made.headers.get("coregent-session") ?? "" };
  for (const region of ["a", "b", "c"]) {
    const read = await ask(region, ["GET", row], undefined, { ...session, prefer: "wait=30" });
    expect([read.status, read.text, read.headers.get("etag")]).toEqual([
      200,
      made.text,
      made.headers.get("etag"),
    ]);
  }

  const key = { "idempotency-key": "order-1" };
  const once = await ask("c", ["POST", rows], { body: "once", home: "c" }, key);
  const again = await ask("c", ["POST", rows], { body: "once", home: "c" }, key);
  expect([once.status, again.status, again.text]).toEqual([201, 201, once.text]);
  expect(again.headers.get("idempotency-replayed")).toBe("true");
  const other = await ask("c", ["POST", rows], { body: "other", home: "c" }, key);
  expect(other.json).toMatchObject({ status: 422, code: "idempotency-key-reused" });

  const durable = await ask(
    "a",
    ["PATCH", row],
    { body: "kept" },
    { prefer: "durable=2, wait=30", ...session },
  );
  expect([durable.status, durable.headers.get("preference-applied")]).toEqual([200, "wait=30, durable=2"]);

  await cluster.kill("b");
  const taken = await eventually(
    async () => {
      const answer = await ask("a", ["PATCH", row], { body: "taken over" });
      if (answer.status === 200) return answer;
      expect(answer.json).toMatchObject({ status: 503, retryable: true });
      throw new Error(answer.text);
    },
    { timeoutMs: 30_000 },
  );
  expect(taken.headers.get("coregent-takeover")).toBe("true");
  expect(taken.headers.get("coregent-region")).toBe("a");

  await cluster.restart("b");
  await cluster.converged();
  const seen = await ask("b", ["GET", row]);
  expect(seen.json).toMatchObject({ body: "taken over" });
  await eventually(async () => {
    const back = await ask("c", ["PATCH", row], { body: "back" });
    return back.headers.get("coregent-region") === "b" && back.headers.get("coregent-takeover") === "false";
  });
}, 120_000);
