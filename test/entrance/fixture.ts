import { Client, type ClientConfig } from "pg";
import pino from "pino";
import { openEndpoint } from "../../regions/endpoint-settings.ts";
import type { PlaceSettings } from "../../src/client-places.ts";
import { systemClock } from "../../src/clock.ts";
import { defaultEntranceBounds, type EntranceBounds } from "../../src/entrance/bounds.ts";
import { startEntrance, type Entrance } from "../../src/entrance/entrance.ts";
import { directLine } from "../../src/postgres/line.ts";
import {
  masterAddress,
  type EntranceMaster,
  type EntranceMasters,
  type MasterState,
} from "../../src/entrance/masters.ts";

type Listener = (region: string, state: MasterState) => void;

/** Masters whose state the test says. Those that are up are candidates, in the order in which they are given. */
export class GivenMasters implements EntranceMasters {
  readonly #urls: Readonly<Record<string, string>>;
  readonly #states = new Map<string, MasterState>();
  readonly #listeners = new Set<Listener>();

  constructor(urls: Readonly<Record<string, string>>) {
    this.#urls = urls;
  }

  candidates = (): EntranceMaster[] =>
    Object.entries(this.#urls)
      .filter(([region]) => (this.#states.get(region) ?? "up") === "up")
      .map(([region, url]) => ({ region, ...masterAddress(url), line: directLine }));

  watch = (listener: Listener): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  set(region: string, state: MasterState): void {
    this.#states.set(region, state);
    for (const listener of this.#listeners) listener(region, state);
  }

  readonly doubted: string[] = [];
  doubt = (region: string): void => void this.doubted.push(region);

  get watchers(): number {
    return this.#listeners.size;
  }
}

export const openEntrance = (
  masters: EntranceMasters,
  bounds: Partial<EntranceBounds> = {},
  places: PlaceSettings = openEndpoint,
): Promise<Entrance> =>
  startEntrance({
    listen: { host: "127.0.0.1", port: 0 },
    masters,
    bounds: { ...defaultEntranceBounds, lingerMs: 1_000, ...bounds },
    places: () => places,
    clock: systemClock(),
    logger: pino({ level: "silent" }),
  });

/** The URL by way of the entrance. */
export const through = (entrance: Entrance, url: string): string => {
  const changed = new URL(url);
  changed.hostname = "127.0.0.1";
  changed.port = String(entrance.port);
  return changed.href;
};

/** A session that is ended when the test is. */
export class Session implements AsyncDisposable {
  readonly client: Client;
  readonly errors: Error[] = [];
  /** Resolves with the error that ended it, or null. */
  readonly ended: Promise<Error | null>;

  private constructor(client: Client) {
    this.client = client;
    this.client.on("error", (error) => this.errors.push(error));
    this.ended = new Promise((resolve) => client.once("end", () => resolve(this.errors[0] ?? null)));
  }

  static async open(config: string | ClientConfig): Promise<Session> {
    const session = new Session(
      new Client(typeof config === "string" ? { connectionString: config } : config),
    );
    await session.client.connect();
    return session;
  }

  async value(sql: string, values: readonly unknown[] = []): Promise<unknown> {
    const { rows } = await this.client.query<unknown[]>({ text: sql, values: [...values], rowMode: "array" });
    return rows[0]?.[0];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.end().catch(() => undefined);
  }
}
