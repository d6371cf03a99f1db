import { expect, test } from "vitest";
import { eventually } from "../support/eventually.ts";
import { positions, Regions } from "./agents.ts";

const schema = "CREATE TABLE notes (id text PRIMARY KEY, body text NOT NULL)";

test("two regions end equal; SIGTERM confirms exactly what was merged", async () => {
  await using regions = await Regions.create({ schema });
  const { b } = await regions.agents();
  await regions.db("a").query("INSERT INTO notes SELECT 'a' || i, 'x' FROM generate_series(1, 500) i");
  await regions.db("b").query("INSERT INTO notes SELECT 'b' || i, 'x' FROM generate_series(1, 500) i");
  await regions.equal();
  // Merged at this moment, and asynchronously committed: it is made durable and confirmed before the agent ends.
  await regions.db("a").query("UPDATE notes SET body = 'y'");
  await eventually(
    async () => (await regions.db("b").query("SELECT FROM notes WHERE body = 'y'")).length > 0,
  );
  await b?.stop();
  const { merged, confirmed } = await positions(regions, "a", "b");
  expect(confirmed).toBe(merged);
  expect(b?.errors()).toEqual([]);
});
