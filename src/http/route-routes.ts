// For the tags of a schema.
import "@fastify/swagger";
import type { FastifyInstance, FastifyRequest } from "fastify";
import { Type } from "typebox";
import { placeOfClient } from "../../regions/client-place.ts";
import type { Place } from "../../regions/distance.ts";
import type { Topology } from "../../regions/topology.ts";
import { Problem } from "../problems.ts";
import { catalogWith, findTable } from "../write/catalog.ts";
import type { RegionalWriter, RouteExplanation } from "../write/writer.ts";
import { NearestAnswer, RouteAnswer } from "./agent-schemas.ts";
import type { Authorize } from "./api-parts.ts";
import { parseKeyPath } from "./headers.ts";
import { parameters } from "./query-string.ts";
import { problems } from "./row-route-schemas.ts";

export interface RouteRoutesOptions {
  readonly writer: Pick<RegionalWriter, "explain" | "nearest" | "catalog">;
  /** The region of this endpoint. */
  readonly region: string;
  /** As the configuration is now. */
  readonly topology: () => Topology;
  readonly authorize: Authorize;
}

const text = (description: string) => Type.Optional(Type.String({ description }));

/**
 * `GET /v1/route?table=&key=`: which master a write goes to, and why. `GET /v1/nearest?lat=&lon=`: the regions for a client
 * there, else for where the trusted headers say it is, else for this region.
 */
export const registerRouting = (app: FastifyInstance, options: RouteRoutesOptions): void => {
  const tags = ["routing"];
  app.get(
    "/v1/route",
    {
      schema: {
        tags,
        summary: "Which master a write goes to, and why",
        querystring: Type.Object({
          table: text("`table` or `schema.table`"),
          key: text("Of the row, as in its address: `a,b` where it has several columns"),
        }),
        response: { 200: RouteAnswer, ...problems },
      },
    },
    (request) => explain(request, options),
  );
  app.get(
    "/v1/nearest",
    {
      schema: {
        tags,
        summary: "The regions for a client, best first",
        querystring: Type.Object({
          lat: text("Degrees, north positive"),
          lon: text("Degrees, east positive"),
        }),
        response: { 200: NearestAnswer, ...problems },
      },
    },
    (request) => nearest(request, options),
  );
};

const explain = async (
  request: FastifyRequest,
  { writer, authorize }: RouteRoutesOptions,
): Promise<RouteExplanation> => {
  const given = new Map(parameters(request.url));
  const name = given.get("table");
  const unknown = [...given.keys()].find((each) => each !== "table" && each !== "key");
  if (name === undefined || unknown !== undefined) {
    throw new Problem(
      "parameter-invalid",
      "the parameters are table=NAME and, where a row is meant, key=KEY",
    );
  }
  const table = findTable(await catalogWith(writer.catalog, [name]), name);
  await authorize(request, { table: table.name, right: "read" });
  const key = given.get("key");
  if (key === undefined) return writer.explain(table.name);
  // Where commas stand between the parts, these may be percent-encoded once more.
  return writer.explain(table.name, table.key.length === 1 ? [key] : parseKeyPath(key, table.key.length));
};

const nearest = (
  request: FastifyRequest,
  { writer, region, topology }: RouteRoutesOptions,
): Record<string, unknown> => {
  const { regions, clients } = topology();
  const header = (name: string): string | null => {
    const value = request.headers[name];
    return typeof value === "string" ? value : null;
  };
  const asked = placeAsked(request.url);
  const told = asked === null ? placeOfClient(clients, { header }) : null;
  const home = regions.find(({ name }) => name === region);
  const place = asked ?? told ?? home;
  if (place === undefined) {
    throw new Problem("parameter-invalid", "give the client's place: lat=DEGREES and lon=DEGREES");
  }
  return {
    place: {
      latitude: place.latitude,
      longitude: place.longitude,
      by: asked === null ? (told === null ? "region" : "header") : "query",
    },
    regions: writer.nearest(place).map((ranked) => ({
      region: ranked.region,
      km: Math.round(ranked.km),
      healthy: ranked.healthy,
      api: regions.find(({ name }) => name === ranked.region)?.api ?? null,
    })),
  };
};

const placeAsked = (url: string): Place | null => {
  const given = new Map(parameters(url));
  const [latitude, longitude] = [degrees(given, "lat", 90), degrees(given, "lon", 180)];
  if (latitude === null && longitude === null) {
    return null;
  }
  if (latitude === null || longitude === null) {
    throw new Problem("parameter-invalid", "lat and lon are given together");
  }
  return { latitude, longitude };
};

const degrees = (given: ReadonlyMap<string, string>, name: string, bound: number): number | null => {
  const value = given.get(name);
  if (value === undefined) {
    return null;
  }
  const number = /^-?\d{1,3}(?:\.\d{1,20})?$/.test(value) ? Number(value) : NaN;
  if (!(Math.abs(number) <= bound)) {
    throw new Problem("parameter-invalid", `${name} is in degrees from -${bound} to ${bound}`);
  }
  return number;
};
