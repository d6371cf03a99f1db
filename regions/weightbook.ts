import { oneWayLatencyMs, type Place } from "./distance.ts";

/** A region of the demo, before it has servers. */
export interface DemoRegion extends Place {
  readonly name: string;
  readonly id: number;
  readonly city: string;
}

/** The demo: Weightbook, a training log with users on three continents. */
export const weightbookCluster = "weightbook";

export const weightbookRegions = [
  { name: "moldova", id: 1, city: "Chisinau", latitude: 47.0105, longitude: 28.8638 },
  { name: "argentina", id: 2, city: "Buenos Aires", latitude: -34.6037, longitude: -58.3816 },
  { name: "new-zealand", id: 3, city: "Auckland", latitude: -36.8509, longitude: 174.7645 },
] as const satisfies readonly DemoRegion[];

export type WeightbookRegionName = (typeof weightbookRegions)[number]["name"];

/** The demo's one-way latency between two of its regions, in whole milliseconds; 0 within a region. */
export const weightbookLatencyMs = (from: Place, to: Place): number => Math.round(oneWayLatencyMs(from, to));
