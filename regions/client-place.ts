import type { ClientSettings } from "./client-settings.ts";
import { countries } from "./countries.ts";
import type { Place } from "./distance.ts";

/** What a request tells of where its client is; null where it does not. */
export interface ClientHints {
  /** The value of a header, by its name in lower case. */
  readonly header: (name: string) => string | null;
}

/**
 * Where a client is by the headers that the configuration trusts: the place of its country's region if the configuration
 * has one, else of its country; null if neither is known. Whatever the headers hold, this throws nothing.
 */
export const placeOfClient = (
  { countryHeader, regionHeader, places }: ClientSettings,
  { header }: ClientHints,
): Place | null => {
  const valueOf = (name: string | null): string | null =>
    name === null ? null : (header(name)?.trim().toUpperCase().slice(0, 8) ?? null);
  const country = valueOf(countryHeader);
  const region = valueOf(regionHeader);
  // "US-CA" as it is, or "CA" beside the country "US".
  const subdivision = region === null || region.includes("-") ? region : `${country}-${region}`;
  const whole = country ?? region?.split("-")[0] ?? null;
  const configured = (code: string | null): Place | undefined => places.find((each) => each.code === code);
  return configured(subdivision) ?? configured(whole) ?? countries.get(whole ?? "") ?? null;
};
