import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { expect, test } from "vitest";
import { hangUp } from "../../src/entrance/upstream.ts";

/** Both ends of a connection. */
const pair = async (): Promise<AsyncDisposable & { ours: Socket; theirs: Socket }> => {
  const { promise, resolve } = Promise.withResolvers<Socket>();
  const server = createServer({ allowHalfOpen: true }, resolve);
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const theirs = connect({
    port: (server.address() as AddressInfo).port,
    host: "127.0.0.1",
    allowHalfOpen: true,
  });
  theirs.on("error", () => undefined);
  const ours = await promise;
  ours.on("error", () => undefined);
  return {
    ours,
    theirs,
    [Symbol.asyncDispose]: async () => {
      ours.destroy();
      theirs.destroy();
      await new Promise((closed) => server.close(closed));
    },
  };
};

test("all that was said arrives, though the other side is slow, and still speaks", async () => {
  await using ends = await pair();
  const said = Buffer.alloc(16 * 1024 * 1024, "x");
  ends.theirs.pause();
  ends.ours.write(said);
  hangUp(ends.ours, 30_000);
  const speaking = setInterval(() => ends.theirs.write("and another thing"), 1);
  let heard = 0;
  for await (const chunk of ends.theirs) heard += (chunk as Buffer).length;
  clearInterval(speaking);
  expect(heard).toBe(said.length);
});

test("whoever does not hang up in turn is left", async () => {
  await using ends = await pair();
  const closed = new Promise((resolve) => ends.ours.once("close", resolve));
  hangUp(ends.ours, 100);
  await closed;
  expect(ends.theirs.destroyed).toBe(false);
});
