/** A place on Earth, in degrees, north and east positive. */
export interface Place {
  readonly latitude: number;
  readonly longitude: number;
}

/** Mean radius of the Earth, IUGG R1, in kilometres. The Earth is no sphere: distances are within 0.6 %. */
export const earthRadiusKm = 6371.0088;

const radians = (degrees: number): number => (degrees * Math.PI) / 180;

/**
 * Great-circle distance in kilometres by the haversine formula, which keeps its precision for near places.
 * R. W. Sinnott, "Virtues of the Haversine", Sky & Telescope 68 (2), 1984, p. 159.
 */
export const distanceKm = (from: Place, to: Place): number => {
  const latitude = Math.sin(radians(to.latitude - from.latitude) / 2) ** 2;
  const longitude = Math.sin(radians(to.longitude - from.longitude) / 2) ** 2;
  const haversine = latitude + Math.cos(radians(from.latitude)) * Math.cos(radians(to.latitude)) * longitude;
  // Rounding can carry it past 1 for antipodes, where asin would give NaN.
  return 2 * earthRadiusKm * Math.asin(Math.sqrt(Math.min(1, haversine)));
};

/** Light in glass fibre: about two thirds of its speed in vacuum. */
const fibreKmPerMs = 200;
/** Sea cables go round continents: about half as long again as the great circle. */
const detour = 1.5;

/** One-way latency in milliseconds that two places have on a good line; half of the round trip. */
export const oneWayLatencyMs = (from: Place, to: Place): number =>
  (distanceKm(from, to) * detour) / fibreKmPerMs;

/** The places by growing distance; of equally distant ones the first stays first. */
export const byDistance = <P extends Place>(from: Place, places: readonly P[]): readonly P[] =>
  places
    .map((place) => ({ place, km: distanceKm(from, place) }))
    .toSorted((a, b) => a.km - b.km)
    .map(({ place }) => place);
