/** How `status` and the demo write numbers: short, with a unit, never more digits than mean something. */

/** `0.4 s`, `12 s`, `3 min`, `2.5 h`, `4 d`. */
export const duration = (seconds: number): string => {
  const value = Math.max(0, seconds);
  if (value < 10) {
    return `${trim(value, 1)} s`;
  }
  if (value < 120) {
    return `${Math.round(value)} s`;
  }
  if (value < 7200) {
    return `${Math.round(value / 60)} min`;
  }
  return value < 172_800 ? `${trim(value / 3600, 1)} h` : `${Math.round(value / 86_400)} d`;
};

/** `0 B`, `812 B`, `1.4 MB` (powers of 1024, the way PostgreSQL counts). */
export const bytes = (count: number): string => {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"] as const;
  let value = count;
  let unit: string = units[0];
  for (const next of units.slice(1)) {
    if (value < 1024) {
      break;
    }
    value /= 1024;
    unit = next;
  }
  return `${value < 10 ? trim(value, 1) : Math.round(value)} ${unit}`;
};

export const plural = (count: number, noun: string): string =>
  `${grouped(count)} ${noun}${count === 1 ? "" : "s"}`;

/** `12,345`. */
export const grouped = (count: number): string => count.toLocaleString("en-US");

const trim = (value: number, digits: number): string => value.toFixed(digits).replace(/\.0+$/, "");
