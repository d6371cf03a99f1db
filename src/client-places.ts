import { BlockList, isIPv6, type Socket } from "node:net";
import type { EndpointSettings } from "../regions/endpoint-settings.ts";

/** How many connections one client may have open at one listener. */
export type PlaceSettings = Pick<EndpointSettings, "connectionsPerAddress" | "sharedAddresses">;

/**
 * - `free`: there is a place.
 * - `taken`: the client has all of its own; this connection is to be told so.
 * - `crowded`: so many of its connections are waiting to be told that this one is to be hung up on.
 */
export type Place = "free" | "taken" | "crowded";

/** Beyond a client's own places, so that a refusal can be said. */
const refusedAtOnce = 32;

/** The connections that each client has open. */
export class ClientPlaces {
  readonly #settings: () => PlaceSettings;
  readonly #open = new Map<string, number>();
  #shared: { readonly of: readonly string[]; readonly list: BlockList } | null = null;

  /** @param settings as they are at the moment of the call */
  constructor(settings: () => PlaceSettings) {
    this.#settings = settings;
  }

  /** Counts the connection until it is closed. */
  enter(socket: Socket): Place {
    const address = socket.remoteAddress ?? "";
    const { connectionsPerAddress, sharedAddresses } = this.#settings();
    const client = clientOf(address);
    const others = this.#open.get(client) ?? 0;
    this.#open.set(client, others + 1);
    socket.once("close", () => this.#leave(client));
    if (others < connectionsPerAddress || this.#isShared(plainAddress(address), sharedAddresses))
      return "free";
    return others < connectionsPerAddress + refusedAtOnce ? "taken" : "crowded";
  }

  #leave(client: string): void {
    const left = (this.#open.get(client) ?? 0) - 1;
    if (left > 0) this.#open.set(client, left);
    else this.#open.delete(client);
  }

  #isShared(address: string, of: readonly string[]): boolean {
    if (this.#shared?.of !== of) this.#shared = { of, list: listOf(of) };
    return this.#shared.list.check(address, isIPv6(address) ? "ipv6" : "ipv4");
  }
}

const listOf = (addresses: readonly string[]): BlockList => {
  const list = new BlockList();
  for (const each of addresses) {
    const [address = "", bits] = each.split("/", 2);
    const family = isIPv6(address) ? "ipv6" : "ipv4";
    if (bits === undefined) list.addAddress(address, family);
    else list.addSubnet(address, Number(bits), family);
  }
  return list;
};

/** Without a zone, and of IPv4 as such. */
export const plainAddress = (address: string): string =>
  /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1] ?? address.split("%", 1)[0] ?? "";

/** Who counts as one where only the address is known: of IPv6 a network of 64 bits, all of which one client can have. */
export const clientOf = (address: string): string => {
  const text = plainAddress(address);
  if (!isIPv6(text)) return text;
  const [head = [], tail = []] = text
    .split("::")
    .map((half) => half.split(":").filter((group) => group !== ""));
  const zeros = Array.from({ length: 8 - head.length - tail.length }, () => "0");
  return `${[...head, ...zeros, ...tail].slice(0, 4).join(":")}::/64`;
};
