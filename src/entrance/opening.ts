import type { Socket } from "node:net";
import type { EntranceBounds } from "./bounds.ts";
import { dial, type DialOutcome } from "./dial.ts";
import type { Upstream } from "./upstream.ts";
import type { EntranceMasters } from "./masters.ts";
import { PacketReader, type ReadPacket } from "./packet-reader.ts";
import { errorResponse, type SessionError } from "./packets.ts";

export interface OpeningParts {
  readonly client: Socket;
  readonly masters: EntranceMasters;
  readonly bounds: EntranceBounds;
  /** Why no session is to be had now; null: one is. */
  readonly refusal: () => SessionError | null;
  readonly onRefused: (refusal: SessionError) => void;
  /** Passes a cancel request on; resolves when that is done. */
  readonly cancel: (packet: Extract<ReadPacket, { kind: "cancel" }>) => Promise<void>;
  /** The client has gone. */
  readonly signal: AbortSignal;
}

/** What a session begins with. */
export interface Opened {
  readonly upstream: Upstream;
  readonly encrypted: boolean;
  readonly answer: Buffer;
  readonly rest: Buffer;
}

/** A client may ask for GSSAPI, for TLS, and then begin in clear text; one more for those yet to come. */
const maxPackets = 4;

const no = Buffer.from("N");

/**
 * Reads the client's first packets and finds the master that its session is led to. Nothing is asked of a master before
 * the client has said what it wants.
 * @returns null if there is no session: the client has been answered, and only has to be hung up
 */
export const openSession = async (parts: OpeningParts): Promise<Opened | null> => {
  const { client, bounds, masters } = parts;
  const reader = new PacketReader(client);
  let upstream: Upstream | null = null;
  for (let packets = 0; packets < maxPackets; packets += 1) {
    const packet = await reader.next(bounds.startupMs);
    if (packet === null) break;
    if (packet.kind === "cancel") {
      await parts.cancel(packet);
      break;
    }
    const refusal = parts.refusal();
    if (refusal !== null) {
      upstream?.socket.destroy();
      await refuse(parts, { reader, packet, refusal });
      return null;
    }
    const outcome: DialOutcome = await dial({
      ...parts,
      masters,
      packet: packet.data,
      kind: packet.kind,
      upstream,
    });
    if (outcome.kind !== "answered") {
      await notAnswered(parts, { reader, packet, outcome });
      return null;
    }
    ({ upstream } = outcome);
    const { answer } = outcome;
    if (packet.kind === "startup") return { upstream, encrypted: false, answer, rest: reader.rest() };
    if (!isRefusal(answer, packet)) return { upstream, encrypted: true, answer, rest: reader.rest() };
    client.write(answer);
  }
  upstream?.socket.destroy();
  return null;
};

/** After a plain "no" to a request for encryption the client asks for something else. All other answers are its business. */
const isRefusal = (answer: Buffer, { kind }: ReadPacket): boolean =>
  (kind === "ssl" || kind === "gss") && answer.equals(no);

interface NotAnswered {
  readonly reader: PacketReader;
  readonly packet: ReadPacket;
  readonly outcome: Exclude<DialOutcome, { kind: "answered" }>;
}

const notAnswered = async (parts: OpeningParts, { reader, packet, outcome }: NotAnswered): Promise<void> => {
  if (outcome.kind === "starting") {
    parts.client.write(outcome.answer);
    return;
  }
  const refusal: SessionError =
    outcome.reasons.length === 0
      ? {
          code: "57P03",
          message: "no region's master takes sessions now",
          hint: "All regions are down or taken out of service, as seen from here. Try again in a moment.",
        }
      : {
          code: "08006",
          message: "no region's master could be reached",
          detail: outcome.reasons.join("; "),
          hint: "Nothing was sent to any of them. Try again in a moment.",
        };
  await refuse(parts, { reader, packet, refusal });
};

/**
 * Tells the client why it gets no session. One that asks for encryption is told first that there is none: it is the only
 * answer after which the reason can be told. From then on it is refused whatever becomes of the masters, since a master that does
 * encrypt must not be had in clear text by that.
 */
const refuse = async (
  parts: OpeningParts,
  { reader, packet, refusal }: { reader: PacketReader; packet: ReadPacket; refusal: SessionError },
): Promise<void> => {
  parts.onRefused(refusal);
  let asked: ReadPacket | null = packet;
  for (let packets = 0; packets < maxPackets && asked !== null; packets += 1) {
    switch (asked.kind) {
      case "ssl":
      case "gss":
        parts.client.write(no);
        break;
      case "startup":
        parts.client.write(errorResponse(refusal));
        return;
      case "cancel":
        await parts.cancel(asked);
        return;
      case "directTls":
        return;
    }
    asked = await reader.next(parts.bounds.startupMs);
  }
};
