import { randomInt } from "node:crypto";
import { createServer } from "node:net";

/**
 * Below the range that systems take ports of outgoing connections from: a server that is down for a moment does not lose
 * its port to one of those.
 */
const lowest = 20_000;
const highest = 32_000;

const handedOut = new Set<number>();

const canListen = (port: number): Promise<boolean> =>
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
    const port = randomInt(lowest, highest);
    if (handedOut.has(port)) continue;
    handedOut.add(port);
    if (await canListen(port)) return port;
  }
  throw new Error(`No free port was found between ${lowest} and ${highest}`);
};
