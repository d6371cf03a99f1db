import { EventEmitter } from "node:events";
import type { Socket } from "node:net";
import { expect, test } from "vitest";
import { ClientPlaces, clientOf } from "../src/client-places.ts";

test.each([
  ["192.0.2.1", "192.0.2.1"],
  ["::ffff:192.0.2.1", "192.0.2.1"],
  ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"],
  ["2001:db8:1:2::6", "2001:db8:1:2::/64"],
  ["2001:db8::6", "2001:db8:0:0::/64"],
  ["fe80::1%eth0", "fe80:0:0:0::/64"],
  ["::1", "0:0:0:0::/64"],
])("%s is the client %s", (address, client) => {
  expect(clientOf(address)).toBe(client);
});

/** All that is asked of a connection: whose it is, and when it is closed. */
const from = (remoteAddress: string): Socket =>
  Object.assign(new EventEmitter() as Socket, { remoteAddress });

test("each client has its places, is told when it has them all, and then hung up on; what is closed is free again", () => {
  const places = new ClientPlaces(() => ({ connectionsPerAddress: 2, sharedAddresses: [] }));
  const first = from("192.0.2.1");
  expect(places.enter(first)).toBe("free");
  const others = Array.from({ length: 34 }, () => places.enter(from("::ffff:192.0.2.1")));
  expect(others).toEqual(["free", ...Array.from({ length: 32 }, () => "taken"), "crowded"]);
  expect(places.enter(from("192.0.2.2"))).toBe("free");
  expect([places.enter(from("2001:db8::1")), places.enter(from("2001:db8::2:1"))]).toEqual(["free", "free"]);
  expect(places.enter(from("2001:db8::3"))).toBe("taken");
  const last = from("192.0.2.3");
  const again = (): string => places.enter(from("192.0.2.3"));
  expect([places.enter(last), again(), again()]).toEqual(["free", "free", "taken"]);
  last.emit("close");
  expect(again()).toBe("taken");
});

test("addresses behind which many clients are have no bound, as the settings are now", () => {
  let sharedAddresses: readonly string[] = ["127.0.0.0/8", "192.0.2.7", "2001:db8:1::/48"];
  const places = new ClientPlaces(() => ({ connectionsPerAddress: 1, sharedAddresses }));
  const second = (address: string): string => {
    places.enter(from(address));
    return places.enter(from(address));
  };
  for (const address of ["127.0.0.9", "::ffff:127.0.0.1", "192.0.2.7", "2001:db8:1:9::1"])
    expect([address, second(address)]).toEqual([address, "free"]);
  for (const address of ["192.0.2.8", "2001:db8:2::1", "::1", "fe80::1%eth0"])
    expect([address, second(address)]).toEqual([address, "taken"]);
  sharedAddresses = ["192.0.2.8"];
  expect([second("192.0.2.7"), second("192.0.2.8")]).toEqual(["taken", "free"]);
});
