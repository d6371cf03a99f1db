export const sorted = (values: readonly number[]): number[] => [...values].sort((a, b) => a - b);

/** The `share` (0 to 1) quantile: the smallest value that so many are not above. NaN of nothing. */
export const quantile = (values: readonly number[], share: number): number => {
  const all = sorted(values);
  return all[Math.min(all.length - 1, Math.max(0, Math.ceil(all.length * share) - 1))] ?? Number.NaN;
};

export const median = (values: readonly number[]): number => {
  const all = sorted(values);
  const middle = all.length / 2;
  return ((all[Math.ceil(middle) - 1] ?? Number.NaN) + (all[Math.floor(middle)] ?? Number.NaN)) / 2;
};
