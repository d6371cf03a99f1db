import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { startFaultProxy, type FaultProxy, type ProxyOptions } from "../../src/embedded/fault-proxy.ts";
import { eventually } from "../support/eventually.ts";

/** A plain TCP server on a free port: what it received, and its sockets. */
const listener = async (onConnect: (socket: Socket) => void = () => undefined) => {
  const sockets: Socket[] = [];
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    sockets.push(socket);
    socket.on("error", () => undefined);
    onConnect(socket);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  const port = address !== null && typeof address === "object" ? address.port : 0;
  return {
    port,
    sockets,
    close: () => {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
};

const echo = (socket: Socket): void => void socket.pipe(socket);

let closers: (() => unknown)[] = [];
beforeEach(() => {
  closers = [];
});
afterEach(async () => {
  for (const close of closers.toReversed()) await close();
});

const setUp = async (
  options: Partial<ProxyOptions> = {},
  onConnect: (socket: Socket) => void = echo,
): Promise<{ proxy: FaultProxy; sockets: Socket[] }> => {
  const server = await listener(onConnect);
  const proxy = await startFaultProxy({
    target: { host: "127.0.0.1", port: server.port },
    random: () => 0.5,
    ...options,
  });
  closers.push(server.close, () => proxy.close());
  return { proxy, sockets: server.sockets };
};

/** A client whose received bytes gather in `got`. */
const dial = async (proxy: FaultProxy) => {
  const socket = connect({ port: proxy.port, host: "127.0.0.1", noDelay: true, allowHalfOpen: true });
  const state = { socket, got: "", error: "", ended: false };
  socket.on("data", (data: Buffer) => (state.got += data.toString("latin1")));
  socket.on("error", (error: NodeJS.ErrnoException) => (state.error = error.code ?? "?"));
  socket.on("end", () => (state.ended = true));
  closers.push(() => socket.destroy());
  await once(socket, "connect");
  return state;
};

const roundTrip = async (client: Awaited<ReturnType<typeof dial>>, text: string): Promise<number> => {
  const before = client.got.length;
  const start = performance.now();
  client.socket.write(text);
  await eventually(() => client.got.length >= before + text.length, { everyMs: 1 });
  return performance.now() - start;
};

test("bytes pass unchanged and are counted, and an end passes as an end", async () => {
  const { proxy } = await setUp();
  const client = await dial(proxy);
  client.socket.end("hello");
  await eventually(() => client.ended);
  expect(client.got).toBe("hello");
  expect(proxy.counters).toMatchObject({ toServer: 5, toClient: 5, accepted: 1 });
  await eventually(() => proxy.counters.open === 0);
});

test("half-open: one end does not end the other direction", async () => {
  const { proxy } = await setUp({}, (socket) => {
    socket.resume();
    socket.on("end", () => setTimeout(() => socket.end("late answer"), 50));
  });
  const client = await dial(proxy);
  client.socket.end("x");
  await eventually(() => client.ended);
  expect(client.got).toBe("late answer");
});

test("each direction has its latency", async () => {
  const { proxy } = await setUp({ toServer: { latencyMs: 80 }, toClient: { latencyMs: 40 } });
  const client = await dial(proxy);
  const ms = await roundTrip(client, "x");
  expect(ms).toBeGreaterThanOrEqual(119);
  expect(ms).toBeLessThan(400);
  proxy.setConditions({ latencyMs: 0 });
  expect(await roundTrip(client, "x")).toBeLessThan(80);
});

test("latency narrows nothing: 32 MB at 100 ms take not much longer than the machine needs", async () => {
  const bytes = randomBytes(1024 * 1024);
  const received = createHash("sha256");
  let count = 0;
  const { proxy } = await setUp({ toServer: { latencyMs: 100 } }, (socket) => {
    socket.on("data", (data: Buffer) => {
      received.update(data);
      count += data.length;
    });
  });
  const client = await dial(proxy);
  const sent = createHash("sha256");
  const start = performance.now();
  for (let i = 0; i < 32; i += 1) {
    sent.update(bytes);
    if (!client.socket.write(bytes)) await once(client.socket, "drain");
  }
  await eventually(() => count === 32 * bytes.length, { timeoutMs: 30_000 });
  // At one buffer of 64 kB a delay it would be 50 seconds.
  expect(performance.now() - start).toBeLessThan(5_000);
  expect(received.digest("hex")).toBe(sent.digest("hex"));
});

test("jitter and loss delay, and keep the order", async () => {
  let seed = 1;
  const random = (): number => (seed = (seed * 16_807) % 2_147_483_647) / 2_147_483_647;
  const { proxy } = await setUp({ random, toServer: { latencyMs: 1, jitterMs: 20, loss: 0.05 } });
  const client = await dial(proxy);
  let sent = "";
  for (let i = 0; i < 200; i += 1) {
    client.socket.write(`${i},`);
    sent += `${i},`;
    if (i % 10 === 0) await sleep(1);
  }
  await eventually(() => client.got.length >= sent.length);
  expect(client.got).toBe(sent);
});

test("bandwidth narrows", async () => {
  const { proxy } = await setUp({ toServer: { bytesPerSecond: 1_000_000 } });
  const client = await dial(proxy);
  const ms = await roundTrip(client, "x".repeat(300_000));
  expect(ms).toBeGreaterThanOrEqual(295);
  expect(ms).toBeLessThan(1_500);
});

test("a slow receiver slows the sender: what waits in the proxy is bounded", async () => {
  const { proxy, sockets } = await setUp({}, (socket) => socket.pause());
  const client = await dial(proxy);
  const chunk = Buffer.alloc(1024 * 1024);
  let written = 0;
  while (written < 256 && client.socket.writableLength < 4 * chunk.length) {
    client.socket.write(chunk);
    written += 1;
    await sleep(2);
  }
  expect(written).toBeLessThan(128);
  let received = 0;
  sockets[0]?.on("data", (data: Buffer) => (received += data.length));
  sockets[0]?.resume();
  await eventually(() => received === written * chunk.length, { timeoutMs: 20_000 });
});

describe("cut", () => {
  test("reset: connections break, new ones too, until it heals", async () => {
    const { proxy, sockets } = await setUp();
    const client = await dial(proxy);
    await roundTrip(client, "x");
    proxy.cut({ mode: "reset" });
    await eventually(() => client.socket.destroyed && sockets[0]?.destroyed);
    expect(client.error).toBe("ECONNRESET");
    const refused = await dial(proxy).catch(() => null);
    await eventually(() => refused === null || refused.error !== "");
    expect(sockets).toHaveLength(1);
    proxy.heal();
    expect(await roundTrip(await dial(proxy), "y")).toBeLessThan(1_000);
  });

  test("blackhole: nothing passes, nobody is told, and what was sent arrives after healing", async () => {
    const { proxy, sockets } = await setUp();
    const client = await dial(proxy);
    await roundTrip(client, "a");
    proxy.cut({ mode: "blackhole" });
    client.socket.write("b");
    const late = await dial(proxy);
    late.socket.write("c");
    await sleep(100);
    expect([client.got, late.got, sockets.length]).toEqual(["a", "", 1]);
    expect([client.error, late.error]).toEqual(["", ""]);
    proxy.heal();
    await eventually(() => expect([client.got, late.got]).toEqual(["ab", "c"]));
  });

  test("a server that dies behind a blackhole is not noticed before it heals", async () => {
    const { proxy, sockets } = await setUp();
    const client = await dial(proxy);
    await roundTrip(client, "a");
    proxy.cut({ mode: "blackhole" });
    sockets[0]?.resetAndDestroy();
    await sleep(100);
    expect(client.socket.destroyed).toBe(false);
    proxy.heal();
    await eventually(() => expect(client.error).toBe("ECONNRESET"));
  });

  test("one way: the other direction still flows", async () => {
    const received: string[] = [];
    const { proxy, sockets } = await setUp({}, (socket) => {
      socket.on("data", (data: Buffer) => received.push(data.toString()));
    });
    const client = await dial(proxy);
    await eventually(() => sockets.length === 1);
    proxy.cut({ mode: "blackhole", direction: "toClient" });
    client.socket.write("up");
    sockets[0]?.write("down");
    await eventually(() => expect(received).toEqual(["up"]));
    await sleep(50);
    expect(client.got).toBe("");
    proxy.heal();
    await eventually(() => expect(client.got).toBe("down"));
  });
});

test("a target that is not there is told as a reset", async () => {
  const gone = await listener();
  gone.close();
  const proxy = await startFaultProxy({ target: { host: "127.0.0.1", port: gone.port }, random: () => 0 });
  closers.push(() => proxy.close());
  const client = await dial(proxy);
  await eventually(() => expect(client.error).toBe("ECONNRESET"));
  await eventually(() => proxy.counters.open === 0);
});
