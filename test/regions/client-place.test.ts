import { assert, option, property as forAll, string } from "fast-check";
import { describe, expect, it } from "vitest";
import { placeOfClient } from "../../regions/client-place.ts";
import type { ClientSettings } from "../../regions/client-settings.ts";
import { countries } from "../../regions/countries.ts";
import { distanceKm } from "../../regions/distance.ts";
import { runs } from "../conflict/runs.ts";

const settings: ClientSettings = {
  countryHeader: "cf-ipcountry",
  regionHeader: "cf-region-code",
  places: [
    { code: "US-CA", latitude: 37.2, longitude: -119.5 },
    { code: "RU", latitude: 56, longitude: 93 },
  ],
};

const at = (country: string | null, region: string | null = null, given = settings) =>
  placeOfClient(given, {
    header: (name) => ({ "cf-ipcountry": country, "cf-region-code": region })[name] ?? null,
  });

describe("where a client is", () => {
  it("by its country", () => {
    expect(at("AR")).toEqual({ latitude: -34, longitude: -64 });
    expect(at("md")).toEqual({ latitude: 47, longitude: 29 });
  });

  it("by its region, where the configuration has the place, whole or beside the country", () => {
    expect(at("US", "CA")).toMatchObject({ code: "US-CA" });
    expect(at("US", "us-ca")).toMatchObject({ code: "US-CA" });
    expect(at(null, "US-CA")).toMatchObject({ code: "US-CA" });
    expect(at("US", "TX")).toEqual({ latitude: 39, longitude: -95 });
    expect(at(null, "US-TX")).toEqual({ latitude: 39, longitude: -95 });
    // California is no country, Canada is.
    expect(at("CA")).toEqual({ latitude: 56, longitude: -106 });
  });

  it("by a country's place in the configuration, before ours", () => {
    expect(at("RU")).toMatchObject({ longitude: 93 });
  });

  it("not at all: unknown codes, no headers, and headers that are not trusted", () => {
    expect([at("XX"), at("T1"), at(null), at("")]).toEqual([null, null, null, null]);
    expect(at("AR", "B", { ...settings, countryHeader: null, regionHeader: null })).toBeNull();
  });

  it("whatever the headers hold, it is a place or none", () => {
    assert(
      forAll(option(string()), option(string()), (country, region) => {
        const place = at(country, region);
        if (place !== null) expect(Math.abs(place.latitude)).toBeLessThanOrEqual(90);
      }),
      runs(300),
    );
  });
});

describe("the countries", () => {
  it("are all of ISO 3166-1, and Kosovo, each once and on Earth", () => {
    expect(countries.size).toBe(250);
    for (const [code, { latitude, longitude }] of countries) {
      expect(Math.abs(latitude) <= 90 && Math.abs(longitude) <= 180, code).toBe(true);
    }
  });

  it.each([
    ["MD", 47.01, 28.86],
    ["AR", -34.6, -58.38],
    ["NZ", -41.29, 174.78],
    ["JP", 35.68, 139.69],
    ["KE", -1.29, 36.82],
    ["DE", 52.52, 13.4],
    ["SG", 1.35, 103.8],
    ["ZA", -26.2, 28.05],
    ["MX", 19.43, -99.13],
    ["IN", 28.6, 77.2],
    ["IS", 64.1, -21.9],
    ["FJ", -18.1, 178.4],
    ["CL", -33.4, -70.6],
    ["EG", 30, 31.2],
    ["VN", 21, 105.8],
  ])("%s lies about where its best-known city does", (code, latitude, longitude) => {
    const place = countries.get(code);
    expect(place && distanceKm(place, { latitude, longitude })).toBeLessThan(900);
  });
});
