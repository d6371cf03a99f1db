import { randomBytes } from "node:crypto";
import { open, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

/**
 * PostgreSQL names each data folder that initdb makes by a number, and copies of one folder share it: that is how a
 * clone is told from a region of its own. So a folder copied from a template is given its own number, in the two places
 * where it stands: the control file (its first 8 bytes, covered by a CRC-32C) and the first page of each WAL segment
 * (bytes 24 to 31, which no checksum covers).
 */

const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

/** The CRC-32C of each prefix of `bytes` whose length is a multiple of 4 is shown to `visit`, which ends it by true. */
const eachPrefixCrc = (bytes: Buffer, visit: (length: number, crc: number) => boolean): void => {
  let crc = 0xffffffff;
  for (let i = 0; i < bytes.length; i += 1) {
    if (i % 4 === 0 && visit(i, (crc ^ 0xffffffff) >>> 0)) return;
    crc = (crc >>> 8) ^ (crcTable[(crc ^ (bytes[i] ?? 0)) & 0xff] ?? 0);
  }
};

/** Where the control file's checksum stands: its place differs between versions, and it is the CRC of all before it. */
const checksumPlace = (control: Buffer): number => {
  let place = 0;
  eachPrefixCrc(control, (length, crc) => {
    if (length < 64 || length + 4 > control.length || control.readUInt32LE(length) !== crc) return false;
    place = length;
    return true;
  });
  if (place === 0) throw new Error("The control file has no checksum that is known");
  return place;
};

/** As PostgreSQL makes them: seconds since 1970 in the upper half. */
const newIdentifier = (nowMs: number): Buffer => {
  const identifier = randomBytes(8);
  identifier.writeUInt32LE(Math.floor(nowMs / 1000), 4);
  return identifier;
};

const nameWalSegment = async (file: string, from: Buffer, to: Buffer): Promise<void> => {
  const segment = await open(file, "r+");
  try {
    const place = 24;
    const { buffer } = await segment.read(Buffer.alloc(8), 0, 8, place);
    // A segment made ahead for later use is empty still.
    if (buffer.equals(from)) await segment.write(to, 0, 8, place);
  } finally {
    await segment.close();
  }
};

/** Gives a data folder, whose server was shut down cleanly or never ran, a system identifier of its own. */
export const renewSystemIdentifier = async (folder: string): Promise<void> => {
  const controlFile = join(folder, "global", "pg_control");
  const control = await readFile(controlFile);
  const place = checksumPlace(control);
  const from = Buffer.from(control.subarray(0, 8));
  const to = newIdentifier(Date.now());
  to.copy(control);
  eachPrefixCrc(control, (length, crc) => {
    if (length === place) control.writeUInt32LE(crc, place);
    return length === place;
  });
  const wal = join(folder, "pg_wal");
  for (const name of await readdir(wal)) {
    if (/^[0-9A-F]{24}$/.test(name)) await nameWalSegment(join(wal, name), from, to);
  }
  await writeFile(controlFile, control);
};
