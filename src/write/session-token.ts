import { hash } from "node:crypto";
import { MAX_REGION, MIN_REGION, pack, regionOf } from "../../conflict/version.ts";

/** Everything that one database of a region's had written before `lsn` has been seen. */
export interface OriginPosition {
  /** Region id. */
  readonly origin: number;
  /**
   * Which database of the region's (coregent.local, lower-case uuid). A region that is set up anew has another one, and
   * positions of the two cannot be compared.
   */
  readonly incarnation: string;
  readonly lsn: bigint;
}

/**
 * What a client has seen. It brings the token along, so that what it is shown next, wherever, is not older.
 * A lattice: tokens merge by maximum, position by position.
 */
export interface SessionToken {
  /** By origin, then incarnation; one for each pair. */
  readonly positions: readonly OriginPosition[];
  /** The highest version seen, 0n for none: the client's writes are stamped above it. */
  readonly version: bigint;
}

export const emptySession: SessionToken = { positions: [], version: 0n };

/** Of one token: its length on the wire stays below 4.5 kB. Regions beyond so many cannot be told apart in time. */
export const maxPositions = 128;

/** The text is not a token of this cluster: cut off, changed on its way, or invented. To be answered with 400. */
export class SessionTokenInvalid extends Error {
  override readonly name = "SessionTokenInvalid";
}

const compareKeys = (a: OriginPosition, b: OriginPosition): number => {
  if (a.origin !== b.origin) return a.origin - b.origin;
  if (a.incarnation === b.incarnation) return 0;
  return a.incarnation < b.incarnation ? -1 : 1;
};

const higher = (a: bigint, b: bigint): bigint => (a > b ? a : b);

/** Positions in their order, the highest of each origin and incarnation. */
const canonical = (positions: readonly OriginPosition[]): OriginPosition[] => {
  const merged: OriginPosition[] = [];
  for (const position of [...positions].sort(compareKeys)) {
    const last = merged.at(-1);
    if (last === undefined || compareKeys(last, position) !== 0) merged.push(position);
    else if (position.lsn > last.lsn) merged[merged.length - 1] = position;
  }
  return merged;
};

/** What has been seen by either. Commutative, associative, idempotent. */
export const mergeSessions = (a: SessionToken, b: SessionToken): SessionToken => ({
  positions: canonical([...a.positions, ...b.positions]),
  version: higher(a.version, b.version),
});

/** The token without the positions that `keep` refuses. */
export const filterSession = (
  token: SessionToken,
  keep: (position: OriginPosition) => boolean,
): SessionToken => ({ ...token, positions: token.positions.filter(keep) });

/** A day. Clocks of regions that take writes at their endpoints are closer than that (`fenceSkewMs`). */
const maxAheadMicros = 86_400_000_000n;

/**
 * The version above which the token's writes are stamped: the setting `coregent.stamp_above`, as decimal text. A token is not
 * signed; so that an invented one cannot use up the versions of a row, what is further ahead of `nowMs` than a day counts
 * as a day ahead. (Upon a row that the region holds, a write is stamped above that in any case.)
 */
export const stampAbove = (token: SessionToken, nowMs: number): string => {
  const most = pack(BigInt(Math.trunc(nowMs)) * 1000n + maxAheadMicros, MAX_REGION);
  return (token.version < most ? token.version : most).toString();
};

const format = 1;
const headBytes = 1 + 8;
const positionBytes = 2 + 16 + 8;
const sumBytes = 6;
/** Of the text. */
const maxLength = Math.ceil(((headBytes + maxPositions * positionBytes + sumBytes) * 4) / 3);

/**
 * How a token is written: format (1), highest version (8 bytes), then for each position the origin (2), incarnation (16) and LSN
 * (8), then 6 bytes of a digest with the cluster's name in it; big-endian, in base64url. A given token has one text.
 * The digest finds accidents and tokens of other clusters; it is no signature: who may read may also see everything,
 * and a token that claims too much makes its own bearer wait.
 */
export class SessionTokenFormat {
  readonly #prefix: Buffer;

  constructor(cluster: string) {
    this.#prefix = Buffer.from(`${cluster}\0`);
  }

  /** @throws RangeError for more than `maxPositions` */
  encode(token: SessionToken): string {
    const positions = canonical(token.positions);
    if (positions.length > maxPositions) {
      throw new RangeError(
        `a session token holds at most ${maxPositions} positions, not ${positions.length}`,
      );
    }
    const body = Buffer.alloc(headBytes + positions.length * positionBytes);
    body.writeUInt8(format, 0);
    body.writeBigUInt64BE(token.version, 1);
    positions.forEach(({ origin, incarnation, lsn }, index) => {
      const at = headBytes + index * positionBytes;
      body.writeUInt16BE(origin, at);
      body.write(incarnation.replaceAll("-", ""), at + 2, 16, "hex");
      body.writeBigUInt64BE(lsn, at + 18);
    });
    return Buffer.concat([body, this.#sum(body)]).toString("base64url");
  }

  /** @throws SessionTokenInvalid */
  decode(text: string): SessionToken {
    if (text.length > maxLength || !/^[\w-]+$/.test(text)) throw invalid();
    const bytes = Buffer.from(text, "base64url");
    const body = bytes.subarray(0, Math.max(0, bytes.length - sumBytes));
    if (body.length < headBytes || (body.length - headBytes) % positionBytes !== 0) throw invalid();
    if (body[0] !== format || !this.#sum(body).equals(bytes.subarray(body.length))) throw invalid();
    const positions: OriginPosition[] = [];
    for (let at = headBytes; at < body.length; at += positionBytes) positions.push(readPosition(body, at));
    const version = body.readBigUInt64BE(1);
    const token = { positions, version };
    if (!isVersion(version) || !positions.every(isPosition) || this.encode(token) !== text) throw invalid();
    return token;
  }

  #sum(body: Buffer): Buffer {
    return hash("sha256", Buffer.concat([this.#prefix, body]), "buffer").subarray(0, sumBytes);
  }
}

const readPosition = (body: Buffer, at: number): OriginPosition => ({
  origin: body.readUInt16BE(at),
  incarnation: body
    .toString("hex", at + 2, at + 18)
    .replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5"),
  lsn: body.readBigUInt64BE(at + 18),
});

const isPosition = ({ origin }: OriginPosition): boolean => origin >= MIN_REGION && origin <= MAX_REGION;

const isVersion = (version: bigint): boolean =>
  version === 0n || (version < 1n << 63n && regionOf(version) >= MIN_REGION);

const invalid = (): SessionTokenInvalid =>
  new SessionTokenInvalid(
    "the session token is not one of this cluster: send Coregent-Session back exactly as it came, or leave it out",
  );
