import { readClients, readDegrees, type ClientSettings } from "./client-settings.ts";
import { readEndpoint, type EndpointSettings } from "./endpoint-settings.ts";
import type { Environment } from "./interpolate.ts";
import { readPostgresUrl, type Secret } from "./secret.ts";
import { readTables, type TableSettings } from "./table-settings.ts";
import { readWriter, type WriterSettings } from "./writer-settings.ts";
import { quote, YamlReader, type Field, type Problem } from "./yaml-reader.ts";

/** A cluster as its configuration file describes it: validated, with variables filled in. */
export interface Topology {
  /** Letters, digits, "_" and "-", beginning with a letter; at most 40 characters. */
  readonly cluster: string;
  /** At least one; ids, names, databases and api addresses are unique. In the file's order. */
  readonly regions: readonly Region[];
  /** Every table with a primary key in these schemas is replicated. */
  readonly schemas: readonly string[];
  /** Settings of single tables; the tables not named here have none (see ownership.ts). */
  readonly tables: readonly TableSettings[];
  /** Bounds of the regional writer. */
  readonly writer: WriterSettings;
  /** Who may use the HTTP endpoint. */
  readonly endpoint: EndpointSettings;
  /** Where clients are. */
  readonly clients: ClientSettings;
  /** Whether administrators may simulate outages. */
  readonly outages: { readonly allowed: boolean };
}

export interface Region {
  readonly name: string;
  /** 1..1023: part of every version that this region writes, so never given to another region. */
  readonly id: number;
  /** Degrees, north and east positive. */
  readonly latitude: number;
  readonly longitude: number;
  /** The region's master. Shows as `postgres://app:***@host:5432/weightbook`. */
  readonly postgres: Secret;
  /** Origin of the agent's HTTP address, without a trailing slash: `http://127.0.0.1:8080`. */
  readonly api: string;
  /** Where the agent listens for PostgreSQL clients; null: nowhere. */
  readonly entrance: HostPort | null;
}

/** An address to listen at; the host without the brackets that IPv6 has in text. */
export interface HostPort {
  readonly host: string;
  readonly port: number;
}

export const maxRegionId = 1023;
const maxClusterName = 40;

export type ParsedTopology =
  | { readonly topology: Topology; readonly problems?: never }
  | { readonly problems: readonly Problem[] };

/**
 * Reads a topology out of YAML. Never throws: whatever the text is, there is a topology or a list of all
 * that is wrong, in the file's order. Problems never quote a PostgreSQL URL or the value of a variable.
 */
export const parseTopology = (yaml: string, env: Environment): ParsedTopology => {
  const reader = new YamlReader(yaml, env);
  if (reader.problems.length > 0) {
    return { problems: reader.problems };
  }
  const root = reader.mapping(reader.root, {
    required: ["cluster", "regions"],
    optional: ["schemas", "tables", "writer", "endpoint", "clients", "outages"],
  });
  const cluster = readCluster(reader, root?.cluster);
  const regions = readRegions(reader, root?.regions);
  const schemas = root?.schemas === undefined ? ["public"] : readSchemas(reader, root.schemas);
  const tables = readTables(reader, root?.tables, schemas);
  const writer = readWriter(reader, root?.writer);
  const endpoint = readEndpoint(reader, root?.endpoint);
  const clients = readClients(reader, root?.clients);
  const outages = readOutages(reader, root?.outages);
  if (reader.problems.length > 0 || cluster === undefined) {
    return { problems: reader.problems.toSorted((a, b) => a.line - b.line || a.column - b.column) };
  }
  return { topology: { cluster, regions, schemas, tables, writer, endpoint, clients, outages } };
};

/** The region of that name, or undefined. */
export const findRegion = (topology: Topology, name: string): Region | undefined =>
  topology.regions.find((region) => region.name === name);

export const hostPort = ({ host, port }: HostPort): string =>
  host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;

/** The cluster's name as it stands in the names of slots and replication origins: `[a-z0-9_]+`. */
export const clusterSlug = (cluster: string): string => cluster.toLowerCase().replaceAll("-", "_");

const readCluster = (reader: YamlReader, field: Field | undefined): string | undefined => {
  const text = reader.text(field);
  if (field === undefined || text === undefined) {
    return undefined;
  }
  if (!/^[A-Za-z][A-Za-z0-9_-]*$/.test(text.value) || text.value.length > maxClusterName) {
    const rule = `letters, digits, "_" and "-" after a letter, at most ${maxClusterName}`;
    reader.report(field, `must be made of ${rule}; it is ${quote(text.shown)}`);
    return undefined;
  }
  return text.value;
};

const readRegions = (reader: YamlReader, field: Field | undefined): readonly Region[] => {
  const items = reader.sequence(field);
  if (field !== undefined && items?.length === 0) {
    reader.report(field, "must name at least one region");
  }
  const taken = new Map<string, string>();
  const unique = (what: string, value: string | number, where: Field, shown: string): void => {
    const key = `${what} ${value}`;
    const other = taken.get(key);
    if (other !== undefined) {
      reader.report(where, `repeats ${shown} of ${other}: each region needs its own`);
    }
    taken.set(key, other ?? where.path.replace(/\.[a-z]+$/, ""));
  };
  return (items ?? []).flatMap((item) => readRegion(reader, item, unique) ?? []);
};

type CheckUnique = (what: string, value: string | number, where: Field, shown: string) => void;

const readRegion = (reader: YamlReader, item: Field, unique: CheckUnique): Region | undefined => {
  const fields = reader.mapping(item, {
    required: ["name", "id", "latitude", "longitude", "postgres", "api"],
    optional: ["entrance"],
  });
  const name = readRegionName(reader, fields?.name, unique);
  const id = readRegionId(reader, fields?.id, unique);
  const latitude = readDegrees(reader, fields?.latitude, 90);
  const longitude = readDegrees(reader, fields?.longitude, 180);
  const postgres = readPostgres(reader, fields?.postgres, unique);
  const api = readApi(reader, fields?.api, unique);
  const entrance = readEntrance(reader, fields?.entrance);
  if (
    name === undefined ||
    id === undefined ||
    latitude === undefined ||
    longitude === undefined ||
    postgres === undefined ||
    api === undefined
  ) {
    return undefined;
  }
  return { name, id, latitude, longitude, postgres, api, entrance };
};

const readRegionName = (
  reader: YamlReader,
  field: Field | undefined,
  unique: CheckUnique,
): string | undefined => {
  const name = reader.label(field);
  if (field !== undefined && name !== undefined) {
    unique("name", name.toLowerCase(), field, "the name");
  }
  return name;
};

const readRegionId = (
  reader: YamlReader,
  field: Field | undefined,
  unique: CheckUnique,
): number | undefined => {
  const id = reader.number(field);
  if (field === undefined || id === undefined) {
    return undefined;
  }
  if (!Number.isInteger(id) || id < 1 || id > maxRegionId) {
    reader.report(field, `must be a whole number from 1 to ${maxRegionId}`);
    return undefined;
  }
  unique("id", id, field, "the id");
  return id;
};

const readPostgres = (
  reader: YamlReader,
  field: Field | undefined,
  unique: CheckUnique,
): Secret | undefined => {
  const text = reader.text(field);
  if (field === undefined || text === undefined) {
    return undefined;
  }
  const read = readPostgresUrl(text.value);
  if (read.problem !== undefined) {
    reader.report(field, read.problem);
    return undefined;
  }
  unique("postgres", read.database, field, "the database");
  return read.secret;
};

const readApi = (reader: YamlReader, field: Field | undefined, unique: CheckUnique): string | undefined => {
  const text = reader.text(field);
  if (field === undefined || text === undefined) {
    return undefined;
  }
  const url = URL.canParse(text.value) ? new URL(text.value) : null;
  if (url === null || !/^https?:$/.test(url.protocol)) {
    reader.report(field, "must be a URL such as http://127.0.0.1:8080");
    return undefined;
  }
  if (url.username !== "" || url.password !== "") {
    reader.report(field, "must not contain a user or password");
    return undefined;
  }
  if (url.pathname !== "/" || url.search !== "" || url.hash !== "") {
    reader.report(field, "must end after the host and port");
    return undefined;
  }
  unique("api", url.origin, field, "the address");
  return url.origin;
};

/** Regions on machines of their own may all say `0.0.0.0:6432`, so it need not be unique. */
const readEntrance = (reader: YamlReader, field: Field | undefined): HostPort | null => {
  const text = reader.text(field);
  if (field === undefined || text === undefined) {
    return null;
  }
  const address = /^(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})$/.exec(text.value);
  const host = address?.[1] ?? address?.[2];
  const port = Number(address?.[3]);
  if (host === undefined || port < 1 || port > 65_535) {
    reader.report(field, "must be HOST:PORT, such as 127.0.0.1:6432 or [::1]:6432");
    return null;
  }
  return { host, port };
};

const readOutages = (reader: YamlReader, field: Field | undefined): { allowed: boolean } => {
  const fields = reader.mapping(field, { required: ["allowed"], optional: [] });
  return { allowed: reader.flag(fields?.allowed) ?? false };
};

const readSchemas = (reader: YamlReader, field: Field): readonly string[] => {
  const items = reader.sequence(field);
  if (items?.length === 0) {
    reader.report(field, "must name at least one schema, or be left out for [public]");
  }
  const schemas: string[] = [];
  for (const item of items ?? []) {
    const text = reader.text(item);
    if (text === undefined) {
      continue;
    }
    if (/^pg_|^information_schema$|^coregent$/.test(text.value)) {
      reader.report(item, `is ${quote(text.shown)}, which cannot be replicated`);
    } else if (text.value.length > 63) {
      reader.report(item, "is longer than the 63 bytes of a PostgreSQL name");
    } else if (schemas.includes(text.value)) {
      reader.report(item, `repeats the schema ${quote(text.shown)}`);
    }
    schemas.push(text.value);
  }
  return schemas;
};
