/**
 * The untyped packets with which a client opens a connection, and the one message that the entrance itself says. See
 * https://www.postgresql.org/docs/18/protocol-message-formats.html
 */
export type OpeningPacket =
  /** `bytes`: its length. What follows belongs to something else. */
  | { readonly kind: "startup" | "ssl" | "gss" | "directTls"; readonly bytes: number }
  /** `key`: process id and secret, as in BackendKeyData; hex. */
  | { readonly kind: "cancel"; readonly key: string; readonly bytes: number }
  | { readonly kind: "incomplete" }
  | { readonly kind: "garbage" };

const cancelCode = 80_877_102;
const sslCode = 80_877_103;
const gssCode = 80_877_104;

/** As in PostgreSQL (MAX_STARTUP_PACKET_LENGTH). */
const maxStartupBytes = 10_000;
/** Protocol 3.2 has secrets of up to 256 bytes. */
const maxCancelBytes = 12 + 256;
const tlsHandshake = 0x16;
const maxTlsRecordBytes = 5 + 16_384;

const incomplete: OpeningPacket = { kind: "incomplete" };
const garbage: OpeningPacket = { kind: "garbage" };

/** What the bytes begin with. Garbage is known by its first 8 bytes, not by waiting for the length that it claims. */
export const readOpening = (bytes: Buffer): OpeningPacket => {
  if (bytes.length === 0) {
    return incomplete;
  }
  if (bytes[0] === tlsHandshake) {
    return readTlsRecord(bytes);
  }
  if (bytes.length < 4) {
    return incomplete;
  }
  const length = bytes.readUInt32BE(0);
  if (length < 8 || length > maxStartupBytes) {
    return garbage;
  }
  if (bytes.length < 8) {
    return incomplete;
  }
  return readByCode(bytes, length, bytes.readUInt32BE(4));
};

/** TLS from the first byte on (`sslnegotiation=direct`). The hello has to be whole, or the master does not answer it. */
const readTlsRecord = (bytes: Buffer): OpeningPacket => {
  if (bytes.length < 5) {
    return incomplete;
  }
  const length = 5 + bytes.readUInt16BE(3);
  if (bytes[1] !== 3 || length > maxTlsRecordBytes) {
    return garbage;
  }
  return bytes.length < length ? incomplete : { kind: "directTls", bytes: length };
};

const readByCode = (bytes: Buffer, length: number, code: number): OpeningPacket => {
  switch (code) {
    case sslCode:
    case gssCode:
      return length === 8 ? { kind: code === sslCode ? "ssl" : "gss", bytes: 8 } : garbage;
    case cancelCode:
      if (length < 16 || length > maxCancelBytes) {
        return garbage;
      }
      return bytes.length < length
        ? incomplete
        : { kind: "cancel", key: bytes.toString("hex", 8, length), bytes: length };
    default:
      if (code >>> 16 !== 3) {
        return garbage;
      }
      return bytes.length < length ? incomplete : { kind: "startup", bytes: length };
  }
};

export interface SessionError {
  readonly code: SessionErrorCode;
  readonly message: string;
  readonly detail?: string;
  readonly hint?: string;
}

/**
 * - 57P01 admin_shutdown: the session has ended, and nothing was under way in it.
 * - 57P03 cannot_connect_now: no master takes sessions.
 * - 53300 too_many_connections.
 * - 08006 connection_failure: the line to the master is lost; the outcome of what was under way is not known.
 */
export type SessionErrorCode = "57P01" | "57P03" | "53300" | "08006";

/** An ErrorResponse that ends the session. */
export const errorResponse = ({ code, message, detail, hint }: SessionError): Buffer => {
  const fields = [
    ["S", "FATAL"],
    ["V", "FATAL"],
    ["C", code],
    ["M", message],
    ["D", detail],
    ["H", hint],
  ];
  const body = fields.flatMap(([type, text]) => (text === undefined ? [] : [`${type}${text}\0`])).join("");
  const length = Buffer.alloc(4);
  length.writeInt32BE(4 + Buffer.byteLength(body) + 1);
  return Buffer.concat([Buffer.from("E"), length, Buffer.from(`${body}\0`)]);
};

/** The SQLSTATE in the body of an ErrorResponse; "" without one. */
export const sqlStateOf = (body: Buffer): string =>
  body
    .toString("latin1")
    .split("\0")
    .find((field) => field.startsWith("C"))
    ?.slice(1) ?? "";
