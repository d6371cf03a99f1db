import { afterAll, beforeAll, expect, test } from "vitest";
import { healths, WritingRegions } from "./masters-fixture.ts";
import { insert, request, update } from "./writer-requests.ts";

let all: WritingRegions;
beforeAll(async () => {
  all = await WritingRegions.create();
});
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
