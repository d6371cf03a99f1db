import type { Place } from "./distance.ts";
import { quote, type Field, type YamlReader } from "./yaml-reader.ts";

/**
 * How a client's place is known. The headers are trusted, so name them only where a proxy sets them and removes what
 * clients send under these names.
 */
export interface ClientSettings {
  /** In lower case; holds an ISO 3166-1 code such as `AR`. null: no such header is looked at. */
  readonly countryHeader: string | null;
  /** In lower case; holds an ISO 3166-2 code such as `US-CA`, or its second part. */
  readonly regionHeader: string | null;
  /** Places by code, beside and before those of the countries that are known anyway. */
  readonly places: readonly CodedPlace[];
}

export interface CodedPlace extends Place {
  /** `AR`, or `US-CA`. */
  readonly code: string;
}

export const noClientSettings: ClientSettings = { countryHeader: null, regionHeader: null, places: [] };

/** The `clients:` mapping. */
export const readClients = (reader: YamlReader, field: Field | undefined): ClientSettings => {
  const fields = reader.mapping(field, {
    required: [],
    optional: ["countryHeader", "regionHeader", "places"],
  });
  return {
    countryHeader: readHeader(reader, fields?.countryHeader),
    regionHeader: readHeader(reader, fields?.regionHeader),
    places: readPlaces(reader, fields?.places),
  };
};

const readHeader = (reader: YamlReader, field: Field | undefined): string | null => {
  const text = reader.text(field);
  if (field === undefined || text === undefined) {
    return null;
  }
  if (!/^[A-Za-z0-9][A-Za-z0-9-]{0,63}$/.test(text.value)) {
    reader.report(field, `must be the name of a header, such as cf-ipcountry; it is ${quote(text.shown)}`);
    return null;
  }
  return text.value.toLowerCase();
};

const readPlaces = (reader: YamlReader, field: Field | undefined): readonly CodedPlace[] => {
  const places: CodedPlace[] = [];
  for (const item of reader.sequence(field) ?? []) {
    const fields = reader.mapping(item, { required: ["code", "latitude", "longitude"], optional: [] });
    const code = readCode(reader, fields?.code);
    const latitude = readDegrees(reader, fields?.latitude, 90);
    const longitude = readDegrees(reader, fields?.longitude, 180);
    if (code === undefined || latitude === undefined || longitude === undefined) {
      continue;
    }
    if (fields?.code !== undefined && places.some((other) => other.code === code)) {
      reader.report(fields.code, "is listed twice");
    }
    places.push({ code, latitude, longitude });
  }
  return places;
};

const readCode = (reader: YamlReader, field: Field | undefined): string | undefined => {
  const text = reader.text(field);
  if (field === undefined || text === undefined) {
    return undefined;
  }
  const code = text.value.toUpperCase();
  if (!/^[A-Z]{2}(?:-[A-Z0-9]{1,3})?$/.test(code)) {
    reader.report(field, `must be an ISO 3166 code such as AR or US-CA; it is ${quote(text.shown)}`);
    return undefined;
  }
  return code;
};

/** A latitude (bound 90) or a longitude (bound 180). */
export const readDegrees = (
  reader: YamlReader,
  field: Field | undefined,
  bound: number,
): number | undefined => {
  const degrees = reader.number(field);
  if (field !== undefined && degrees !== undefined && Math.abs(degrees) > bound) {
    reader.report(field, `must be in degrees from -${bound} to ${bound}`);
    return undefined;
  }
  return degrees;
};
