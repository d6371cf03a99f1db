import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { healths, WritingRegions } from "./masters-fixture.ts";
import { insert, request, update } from "./writer-requests.ts";

let all: WritingRegions;
beforeAll(async () => {
  all = await WritingRegions.create();
});
afterEach(() => all.calm());
afterAll(() => all?.[Symbol.asyncDispose]());

test("what is answered again says what was said of once only, also when all regions can be asked again", async () => {
  const { writer, masters } = await all.writer("a");
  await writer.write(request([insert("free", { id: "k", body: "first" })]));
  all.line("c").cut({ mode: "reset" });
  await healths(masters, { c: "down" });
  const idempotency = { scope: "", key: "order", requestHash: "x" };
  const change = request([update("free", "k", "second")], { idempotency });
  expect(await writer.write(change)).toMatchObject({ replayed: false, onceOnly: false });
  all.line("c").heal();
  await healths(masters, { c: "healthy" });
  expect(await writer.write(change)).toMatchObject({ replayed: true, onceOnly: false });
});

test("a writer that has just begun waits for the word of a far region, which takes many round trips to connect to", async () => {
  const usual = await all.writer("a");
  await usual.writer.write(request([insert("free", { id: "far", body: "first" })]));
  all.line("c").setConditions({ latencyMs: 80 });
  const settings = { probeTimeoutMs: 300, failuresToDown: 6 };
  const { writer, masters } = await all.writer("a", { settings }, { a: "healthy" });
  expect(masters.find("c")?.health.health).toBe("suspect");
  const idempotency = { scope: "", key: "far", requestHash: "x" };
  const answer = await writer.write(request([update("free", "far", "second")], { idempotency }));
  expect(answer).toMatchObject({ replayed: false, onceOnly: true });
});
