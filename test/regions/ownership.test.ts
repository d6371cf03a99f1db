import { expect, test } from "vitest";
import { hasAuthority, ownershipOf, unowned } from "../../regions/ownership.ts";
import { editDistance, suggest } from "../../regions/suggest.ts";
import { parseTopology } from "../../regions/topology.ts";
import { exampleEnv, exampleYaml } from "./example.ts";

test("a table's settings make its ownership, by the catalog's names", () => {
  const { topology } = parseTopology(exampleYaml, exampleEnv) as Exclude<
    ReturnType<typeof parseTopology>,
    { problems: readonly unknown[] }
  >;
  expect(ownershipOf(topology, { schema: "public", table: "workouts" })).toEqual({
    ownerColumn: "home_region",
    failover: "provisional",
    conflict: "latest",
  });
  expect(ownershipOf(topology, { schema: "Training", table: "Set.entries" })).toEqual(unowned);
  expect(ownershipOf(topology, { schema: "public", table: "Workouts" })).toBe(unowned);
});

// DESIGN section 3. The writer is "a"; undefined: there is no such row.
test.each([
  ["its owner inserts", undefined, "a", true],
  ["another region inserts", undefined, "b", false],
  ["a row of nobody is inserted", undefined, null, false],
  ["its owner updates", "a", "a", true],
  ["another region updates", "b", "b", false],
  ["a row of nobody is updated", null, null, false],
  ["the owner gives it away", "a", "b", true],
  ["another region takes it over", "b", "a", true],
  ["another region gives it to a third", "b", "c", true],
  ["somebody takes what nobody owns", null, "b", true],
  ["its owner is taken away", "b", null, true],
  ["its owner deletes", "a", undefined, true],
  ["another region deletes", "b", undefined, false],
  ["a row of nobody is deleted", null, undefined, false],
])("authority when %s", (_, oldOwner, newOwner, expected) => {
  expect(hasAuthority("a", oldOwner, newOwner)).toBe(expected);
});

test("a word that was meant is found, one that is far from all is not", () => {
  expect(editDistance("kitten", "sitting")).toBe(3);
  expect(editDistance("ab", "ba")).toBe(1);
  expect(suggest("longitud", ["latitude", "longitude"])).toBe("longitude");
  expect(suggest("NAME", ["name", "id"])).toBe("name");
  expect(suggest("zzz", ["name", "id"])).toBeUndefined();
  expect(suggest("x", [])).toBeUndefined();
});
