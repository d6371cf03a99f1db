import { stringify } from "yaml";
import type { DemoRegion } from "../../regions/weightbook.ts";
import { weightbookTables } from "./schema.ts";

export interface RegionEndpoints {
  readonly region: DemoRegion;
  readonly postgres: string;
  readonly api: string;
}

/** An ordinary coregent.yaml. */
export const configText = (cluster: string, regions: readonly RegionEndpoints[], heading: string): string => {
  const document = {
    cluster,
    regions: regions.map(({ region, postgres, api }) => ({
      name: region.name,
      id: region.id,
      latitude: region.latitude,
      longitude: region.longitude,
      postgres,
      api,
    })),
    tables: weightbookTables.flatMap(({ name, owner }) =>
      owner === null ? [] : [{ name: `public.${name}`, owner }],
    ),
  };
  return `${heading
    .split("\n")
    .map((line) => `# ${line}\n`)
    .join("")}${stringify(document, { lineWidth: 110 })}`;
};
