/** How far a region may be behind its peers: in WAL bytes, or in seconds. */
export type LagBound = { readonly bytes: number } | { readonly seconds: number };

const bytesOf: Readonly<Record<string, number>> = {
  "": 1,
  B: 1,
  kB: 1024,
  MB: 1024 ** 2,
  GB: 1024 ** 3,
  TB: 1024 ** 4,
};

const secondsOf: Readonly<Record<string, number>> = {
  us: 1e-6,
  ms: 1e-3,
  s: 1,
  min: 60,
  h: 3_600,
  d: 86_400,
};

/** `1048576`, `16kB`, `64 MB`, `500ms`, `5s`, `2min`, in PostgreSQL's units; null for anything else. */
export const parseLagBound = (text: string): LagBound | null => {
  const match = /^\s*(\d{1,15}(?:\.\d{1,6})?)\s*([A-Za-z]{0,3})\s*$/.exec(text);
  if (match === null) return null;
  const amount = Number(match[1]);
  const unit = match[2] ?? "";
  const bytes = bytesOf[unit];
  if (bytes !== undefined) return { bytes: amount * bytes };
  const seconds = secondsOf[unit];
  return seconds === undefined ? null : { seconds: amount * seconds };
};
