/**
 * A version: microseconds since 1970, shifted left by 10, with the id of the region that wrote in the low bits.
 * A positive bigint that fits PostgreSQL's; it orders by time, then region, and is unique per key, since the
 * writes of one region to one key are serialised.
 */
export type Version = bigint;

/** Region ids are 1..1023: ten bits, with 0 left to mean "none". */
export const MIN_REGION = 1;
export const MAX_REGION = 1023;
/** 53 bits of microseconds and 10 of region fill a positive bigint exactly (June 2255). */
export const MAX_MICROS = 2n ** 53n - 1n;
/**
 * 2255-01-01: a clock beyond this counts as this. The five months up to MAX_MICROS are left for the writes upon
 * rows stamped by such a clock, which count up by one microsecond each: 13 million million of them.
 */
export const MAX_CLOCK_MICROS = 8_993_721_600_000_000n;

const REGION_BITS = 10n;
const REGION_MASK = 1023n;

const checkRegion = (region: number): void => {
  if (!Number.isInteger(region) || region < MIN_REGION || region > MAX_REGION)
    throw new RangeError(`region id ${region} is not an integer from ${MIN_REGION} to ${MAX_REGION}`);
};

/** @throws RangeError if `micros` is not in 0..MAX_MICROS or `region` not in 1..1023. */
export const pack = (micros: bigint, region: number): Version => {
  checkRegion(region);
  if (micros < 0n || micros > MAX_MICROS)
    throw new RangeError(`${micros} microseconds do not fit a version (0 to ${MAX_MICROS})`);
  return (micros << REGION_BITS) | BigInt(region);
};

export const microsOf = (version: Version): bigint => version >> REGION_BITS;

export const regionOf = (version: Version): number => Number(version & REGION_MASK);

/** @throws RangeError if `version` is not one that `pack` makes. */
export const unpack = (version: Version): { readonly micros: bigint; readonly region: number } => {
  const micros = microsOf(version);
  const region = regionOf(version);
  if (pack(micros, region) !== version) throw new RangeError(`${version} is not a version`);
  return { micros, region };
};

export interface Stamping {
  /** The region's clock, microseconds since 1970; however wrong it is, the result outranks `replaced`. */
  readonly clockMicros: bigint;
  readonly region: number;
  /** The highest version (base included) of what is replaced; 0n: nothing was held of the key. */
  readonly replaced: Version;
}

/**
 * The version of a local write: the clock, but always above what it replaces.
 * @throws RangeError if what it replaces leaves no room above it: to refuse one write is better than to stamp one
 * that its own region keeps and all others refuse.
 */
export const nextVersion = ({ clockMicros, region, replaced }: Stamping): Version => {
  const above = microsOf(replaced) + 1n;
  const clock = clockMicros > MAX_CLOCK_MICROS ? MAX_CLOCK_MICROS : clockMicros;
  return pack(clock > above ? clock : above, region);
};
