import { randomInt } from "node:crypto";
import { createServer } from "node:net";

/**
 * Below the range that systems take ports of outgoing connections from: a server that is down for a moment does not lose
 * its port to one of those.
 */
const lowest = 20_000;
const count = 12_000;

/** So far apart that processes which look for ports at once do not meet; those of other containers may have the same id. */
const perProcess = 97;
let next = (process.pid * perProcess + randomInt(perProcess)) % count;

/** Whether nobody listens at a port of 127.0.0.1. */
export const isFree = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const probe = createServer();
    probe.once("error", () => resolve(false));
    probe.listen(port, "127.0.0.1", () => probe.close(() => resolve(true)));
  });

/**
 * A port of 127.0.0.1 that was free a moment ago and was not given out by this process before. Other processes may take
 * it meanwhile: whoever uses it must be ready to ask again.
 */
export const freePort = async (): Promise<number> => {
  for (let attempt = 0; attempt < 200; attempt += 1) {
    const port = lowest + next;
    next = (next + 1) % count;
    if (await isFree(port)) return port;
  }
  throw new Error(`200 ports from ${lowest + next} down are all in use`);
};
