import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { errorResponse, readOpening, sqlStateOf } from "../../src/entrance/packets.ts";
import { masterAddress } from "../../src/entrance/masters.ts";
import { startupPacket } from "./wire.ts";

const packet = (code: number, body = Buffer.alloc(0)): Buffer => {
  const head = Buffer.alloc(8);
  head.writeUInt32BE(8 + body.length);
  head.writeUInt32BE(code, 4);
  return Buffer.concat([head, body]);
};

const ssl = packet(80_877_103);
const gss = packet(80_877_104);
const cancel = packet(80_877_102, Buffer.from("0000002a01020304", "hex"));
const longCancel = packet(80_877_102, Buffer.alloc(260, 7));
const startup = startupPacket({ user: "anna", database: "weightbook" });
const hello = Buffer.concat([Buffer.from("1603010005", "hex"), Buffer.from("hello")]);

describe("the first packet of a client", () => {
  test.each([
    ["SSLRequest", ssl, { kind: "ssl", bytes: 8 }],
    ["GSSENCRequest", gss, { kind: "gss", bytes: 8 }],
    ["CancelRequest", cancel, { kind: "cancel", key: "0000002a01020304", bytes: 16 }],
    ["CancelRequest of protocol 3.2", longCancel, { kind: "cancel", key: "07".repeat(260), bytes: 268 }],
    ["StartupMessage", startup, { kind: "startup", bytes: startup.length }],
    ["a ClientHello", hello, { kind: "directTls", bytes: 10 }],
  ])("%s is known when it is whole, and not before", (_, bytes, expected) => {
    expect(readOpening(bytes)).toEqual(expected);
    expect(readOpening(Buffer.concat([bytes, Buffer.from("and more")]))).toEqual(expected);
    for (let length = 0; length < bytes.length; length += 1) {
      expect(readOpening(bytes.subarray(0, length))).toEqual({ kind: "incomplete" });
    }
  });

  test.each([
    ["HTTP", Buffer.from("GET / HTTP/1.1\r\n")],
    ["SSH", Buffer.from("SSH-2.0-OpenSSH_9.6\r\n")],
    ["zeros", Buffer.alloc(64)],
    ["a startup packet beyond PostgreSQL's bound", Buffer.from("0000271100030000", "hex")],
    ["protocol 2", Buffer.from("0000012800020000", "hex")],
    ["a cancel request without a key", packet(80_877_102)],
    ["a cancel request with a key beyond 256 bytes", packet(80_877_102, Buffer.alloc(261))],
    ["a TLS record beyond its bound", Buffer.from("160301ffff", "hex")],
  ])("%s is garbage at once", (_, bytes) => {
    expect(readOpening(bytes)).toEqual({ kind: "garbage" });
  });

  test("whatever the bytes are, it does not throw, and it waits for no more than the bound", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
        const read = readOpening(Buffer.from(bytes));
        const padded = readOpening(Buffer.concat([bytes, Buffer.alloc(17_000)]));
        expect(read.kind === "incomplete" || read.kind === padded.kind).toBe(true);
        expect(padded.kind).not.toBe("incomplete");
      }),
    );
  });
});

test("an error is laid out as PostgreSQL lays it out", () => {
  const bytes = errorResponse({ code: "57P03", message: "no master", hint: "Wait." });
  expect(bytes.toString("latin1")).toBe("E\0\0\0,SFATAL\0VFATAL\0C57P03\0Mno master\0HWait.\0\0");
  expect(bytes.readUInt32BE(1)).toBe(bytes.length - 1);
  expect(sqlStateOf(bytes.subarray(5))).toBe("57P03");
});

test.each([
  ["postgres://app:x@db.example:6000/weightbook", { host: "db.example", port: 6000 }],
  ["postgres://db.example/weightbook?sslmode=require", { host: "db.example", port: 5432 }],
  ["postgresql://app@[fd00::1]:5433/weightbook", { host: "fd00::1", port: 5433 }],
  ["postgres:///weightbook?host=/run/postgresql&port=5434", { host: "/run/postgresql", port: 5434 }],
  ["postgres://%2Frun%2Fpostgresql/weightbook", { host: "/run/postgresql", port: 5432 }],
])("%s leads to its master", (url, expected) => {
  expect(masterAddress(url)).toEqual(expected);
});
