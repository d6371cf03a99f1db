import { expect } from "vitest";
import type { Entrance } from "../../src/entrance/entrance.ts";
import { eventually, serverUrl } from "../support/database.ts";
import { GivenMasters, type Session } from "./fixture.ts";
import { errorFields, RawClient, startupPacket } from "./wire.ts";

/** Two masters that tell themselves apart by their version. */
export const masters = async (changes: Record<string, string> = {}): Promise<GivenMasters> =>
  new GivenMasters({ near: await serverUrl(18), far: await serverUrl(17), ...changes });

export const whichMaster = async (session: Session): Promise<unknown> => {
  const version = Number(await session.value("SELECT current_setting('server_version_num')"));
  return { 18: "near", 17: "far" }[Math.trunc(version / 10_000)];
};

export const url = "postgres://postgres@127.0.0.1/postgres";
export const startup = startupPacket({ user: "postgres", database: "postgres", application_name: "raw" });
export const unreachable = "postgres://postgres@127.0.0.1:1/postgres";

/** A session by hand that is ready for a query; and the body of its BackendKeyData. */
export const rawSession = async (port: number): Promise<{ raw: RawClient; key: Buffer }> => {
  const raw = new RawClient(port);
  raw.send(startup);
  const answers = await raw.until("Z");
  return { raw, key: answers.find(({ type }) => type === "K")?.body ?? Buffer.alloc(0) };
};

/** Does something that makes a client speak, and waits until the entrance has passed it on. */
export const passedOn = async (entrance: Entrance, speak: () => void): Promise<void> => {
  const before = entrance.status.bytesToMasters;
  speak();
  await eventually(() => entrance.status.bytesToMasters > before);
};

export const cancelRequest = (key: Buffer): Buffer => {
  const head = Buffer.alloc(8);
  head.writeUInt32BE(8 + key.length);
  head.writeUInt32BE(80_877_102, 4);
  return Buffer.concat([head, key]);
};

/** Cancels what `raw` has asked, again until it is heard: a request that comes before the statement has begun does nothing. */
export const cancelled = async (
  entrance: Entrance,
  { raw, key }: { raw: RawClient; key: Buffer },
): Promise<string> => {
  let sqlState = "";
  const heard = (async () => {
    const answers = await raw.until("E");
    sqlState = errorFields(answers.at(-1)?.body)["C"] ?? "none";
  })();
  await eventually(async () => {
    using canceller = new RawClient(entrance.port);
    canceller.send(cancelRequest(key));
    expect(await canceller.closed()).toHaveLength(0);
    return sqlState !== "";
  });
  await heard;
  return sqlState;
};
