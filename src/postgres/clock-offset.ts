/** Microseconds, a whole number, by which the clock that stamps writes is ahead of the true one; negative: behind. */
export const clockOffsetSetting = "coregent.clock_offset_us";

/**
 * The settings that move the clock which stamps writes, for tests of clock faults. The second one sets nothing, but has
 * stamps look at the first: each row pays for every setting that its stamp looks at, so it looks at one.
 * With the first alone, the region's clock is off for whoever asks for it, and its stamps are not.
 */
export const clockOffset = (micros: number | string): Readonly<Record<string, string>> => ({
  [clockOffsetSetting]: String(micros),
  "coregent.stamp_above": "",
});
