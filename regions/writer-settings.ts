import type { Bound, Field, YamlReader } from "./yaml-reader.ts";

/** The bounds of the regional writer. All are whole numbers; the unit is in the name, else they are counts. */
export interface WriterSettings {
  /** Transactions at one master at a time, which is also how many connections there are for them. */
  readonly maxInFlight: number;
  /** Requests that wait for one of these; the next is refused as busy. */
  readonly maxQueue: number;
  /** The longest that a request waits there. */
  readonly maxWaitMs: number;
  /** The longest that one statement of a request may take at a master. */
  readonly statementTimeoutMs: number;
  /** A master is overextended when its latency is so many times its usual, */
  readonly latencyFactor: number;
  /** but never below this. */
  readonly minLatencyMs: number;
  /** How often each master is asked whether it is well, */
  readonly probeMs: number;
  /** and how long it may take to answer. */
  readonly probeTimeoutMs: number;
  /** A master is down after so many failed probes in a row, */
  readonly failuresToDown: number;
  /** and healthy again after so many good ones in a row, */
  readonly successesToUp: number;
  /** of which the first is at least this long ago. */
  readonly calmMs: number;
  /** A region whose clock is further than this from the others' is warned of, */
  readonly warnSkewMs: number;
  /** and beyond this takes no writes at its endpoint. */
  readonly fenceSkewMs: number;
}

const bounds: Readonly<Record<keyof WriterSettings, Bound>> = {
  maxInFlight: { usual: 32, least: 1, most: 1_000 },
  maxQueue: { usual: 256, least: 1, most: 100_000 },
  maxWaitMs: { usual: 2_000, least: 10, most: 60_000 },
  statementTimeoutMs: { usual: 30_000, least: 100, most: 3_600_000 },
  latencyFactor: { usual: 10, least: 2, most: 1_000 },
  minLatencyMs: { usual: 250, least: 1, most: 60_000 },
  probeMs: { usual: 300, least: 20, most: 60_000 },
  probeTimeoutMs: { usual: 600, least: 20, most: 60_000 },
  failuresToDown: { usual: 3, least: 1, most: 100 },
  successesToUp: { usual: 3, least: 1, most: 100 },
  calmMs: { usual: 3_000, least: 0, most: 3_600_000 },
  warnSkewMs: { usual: 1_000, least: 10, most: 86_400_000 },
  fenceSkewMs: { usual: 60_000, least: 100, most: 86_400_000 },
};

const names = Object.keys(bounds) as readonly (keyof WriterSettings)[];

const settingsFrom = (valueOf: (name: keyof WriterSettings) => number): WriterSettings =>
  Object.fromEntries(names.map((name) => [name, valueOf(name)])) as unknown as WriterSettings;

export const defaultWriterSettings: WriterSettings = settingsFrom((name) => bounds[name].usual);

/** The `writer:` mapping. What is left out has its usual value. */
export const readWriter = (reader: YamlReader, field: Field | undefined): WriterSettings => {
  const fields = reader.mapping(field, { required: [], optional: names });
  const settings = settingsFrom((name) => reader.wholeNumber(fields?.[name], bounds[name]));
  const at = fields?.fenceSkewMs ?? fields?.warnSkewMs;
  if (at !== undefined && settings.fenceSkewMs < settings.warnSkewMs) {
    reader.report(
      at,
      `is at odds: fenceSkewMs (${settings.fenceSkewMs}) must not be below warnSkewMs (${settings.warnSkewMs})`,
    );
  }
  return settings;
};
