import { Framer } from "./framer.ts";
import { openUpstream, type Upstream } from "./upstream.ts";
import type { EntranceMaster } from "./masters.ts";
import { sqlStateOf, type OpeningPacket } from "./packets.ts";

/**
 * - `answered`: the client has to do with this master now. `answer` is the beginning of what it said.
 * - `starting`: it says that it takes no sessions yet, or no more (57P03), in `answer`.
 * - `failed`: not one byte came from it.
 */
export type AttemptOutcome =
  | { readonly kind: "answered"; readonly upstream: Upstream; readonly answer: Buffer }
  | { readonly kind: "starting"; readonly answer: Buffer }
  | { readonly kind: "failed"; readonly reason: string };

export interface AttemptOptions {
  readonly master: EntranceMaster;
  /** A connection to it that is still good, on which a request for encryption was refused. */
  readonly upstream: Upstream | null;
  readonly packet: Buffer;
  readonly kind: OpeningPacket["kind"];
  readonly keepAliveMs: number;
  /** Gives up; with the reason. */
  readonly signal: AbortSignal;
}

const cannotConnectNow = "57P03";
const errorType = "E".charCodeAt(0);
const maxAnswerBytes = 16_384;

/**
 * Sends a client's packet to one master and waits for the answer's beginning. Until there is one, the master has done
 * nothing for the client, and another may be tried with the same packet.
 */
export const attempt = async (options: AttemptOptions): Promise<AttemptOutcome> => {
  const { signal, packet } = options;
  const upstream = options.upstream ?? openUpstream(options.master, options.keepAliveMs);
  const { socket } = upstream;
  const send = (): void => void socket.write(packet);
  const { promise, resolve } = Promise.withResolvers<AttemptOutcome>();
  const fail = (reason: string): void => resolve({ kind: "failed", reason });
  const onAbort = (): void => fail(String(signal.reason));
  const onError = (error: Error): void => fail(error.message);
  const onClose = (): void => fail("it closed the connection without an answer");
  let answer: Buffer = Buffer.alloc(0);
  const onData = (chunk: Buffer): void => {
    answer = answer.length === 0 ? chunk : Buffer.concat([answer, chunk]);
    const verdict = options.kind === "startup" ? judge(answer) : "answered";
    if (verdict === "answered") resolve({ kind: "answered", upstream, answer });
    if (verdict === "starting") resolve({ kind: "starting", answer });
  };
  signal.addEventListener("abort", onAbort, { once: true });
  socket.on("data", onData).on("error", onError).on("end", onClose).on("close", onClose);
  if (signal.aborted) onAbort();
  if (options.upstream === null) socket.once("connect", send);
  else send();
  socket.resume();
  const outcome = await promise;
  signal.removeEventListener("abort", onAbort);
  socket
    .off("connect", send)
    .off("data", onData)
    .off("error", onError)
    .off("end", onClose)
    .off("close", onClose);
  socket.pause();
  if (outcome.kind !== "answered") socket.destroy();
  return outcome;
};

/** Of the answer to a startup packet: whether it tells that the master takes no sessions. null: not to be told yet. */
const judge = (answer: Buffer): "answered" | "starting" | null => {
  if (answer[0] !== errorType || answer.length > maxAnswerBytes) {
    return "answered";
  }
  let verdict: "answered" | "starting" | null = null;
  const framer = new Framer([errorType], (_type, body) => {
    verdict ??= body !== null && sqlStateOf(body) === cannotConnectNow ? "starting" : "answered";
  });
  framer.push(answer);
  return verdict;
};
