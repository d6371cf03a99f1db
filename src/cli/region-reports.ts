import { printable, type Colors } from "./output.ts";
import type { RegionReport } from "./services.ts";

/** What was done, by region. */
export const changesText = (regions: readonly RegionReport[], color: Colors): string =>
  regions
    .map(({ region, changes }) => {
      const lines = changes.length === 0 ? ["nothing to do"] : changes;
      return [color.bold(printable(region)), ...lines.map((line) => `  ${printable(line)}`)].join("\n");
    })
    .join("\n\n");
