import { createHash } from "node:crypto";
import { stringify } from "yaml";
import type { DemoRegion } from "../../regions/weightbook.ts";
import { weightbookTables } from "./schema.ts";

export interface RegionEndpoints {
  readonly region: DemoRegion;
  readonly postgres: string;
  readonly api: string;
  /** HOST:PORT */
  readonly entrance: string;
}

export interface ConfigParts {
  readonly cluster: string;
  readonly regions: readonly RegionEndpoints[];
  readonly adminToken: string;
  /** Stands above it, as a comment. */
  readonly heading: string;
}

/** An ordinary coregent.yaml. */
export const configText = ({ cluster, regions, adminToken, heading }: ConfigParts): string => {
  const document = {
    cluster,
    regions: regions.map(({ region, postgres, api, entrance }) => ({
      name: region.name,
      id: region.id,
      latitude: region.latitude,
      longitude: region.longitude,
      postgres,
      api,
      entrance,
    })),
    tables: weightbookTables.flatMap(({ name, owner }) =>
      owner === null ? [] : [{ name: `public.${name}`, owner }],
    ),
    endpoint: {
      // On loopback only, and so everybody here may write; administrators need the token.
      anonymous: "writer",
      tokens: [{ name: "admin", sha256: sha256(adminToken), role: "admin" }],
      // No load balancer stands before it.
      stopPauseMs: 0,
    },
    outages: { allowed: true },
  };
  return `${heading
    .split("\n")
    .map((line) => `# ${line}\n`)
    .join("")}${stringify(document, { lineWidth: 110 })}`;
};

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");
