import { afterAll, beforeAll, expect, test } from "vitest";
import { eventually } from "../support/eventually.ts";
import { ContainerRegions, type Name, names } from "./regions.ts";

/** The image, and three regions of it as compose/compose.yaml has them: through a partition, a crash and a restart. */

let regions: ContainerRegions;

beforeAll(async () => {
  regions = await ContainerRegions.start();
}, 600_000);
afterAll(() => regions?.[Symbol.asyncDispose]());

const insert = (name: string, home: Name): string =>
  `INSERT INTO users (id, name, home_region, born, height_cm)
   VALUES (coregent.ulid_uuid(), '${name}', '${home}', '1990-05-17', 171)`;
const count = "SELECT count(*) FROM users";
const user = (name: string): Record<string, unknown> => ({
  name,
  home_region: "moldova",
  born: "1990-05-17",
  height_cm: 171,
});

/** Until each of them has so many users. */
const have = (users: number, ...of: readonly Name[]): Promise<unknown> =>
  eventually(async () => {
    for (const name of of)
      expect([name, await regions.region(name).sql(count)]).toEqual([name, String(users)]);
  });

test("what is written in one region, by SQL or at the endpoint, is in all", async () => {
  for (const name of names) await regions.region(name).sql(insert(`by SQL in ${name}`, name));
  const answer = await regions.region("argentina").ask(["POST", "/v1/tables/users/rows"], user("by HTTP"));
  expect(answer).toMatchObject({ status: 201, text: expect.stringContaining("by HTTP") as string });
  await have(4, ...names);
  await regions.equal();
});

test("a region that is cut off goes on writing, and so do the others; afterwards all hold the same", async () => {
  const [near, far] = [regions.region("moldova"), regions.region("new-zealand")];
  await near.sql("UPDATE users SET height_cm = 172");
  await regions.equal();
  await far.cut();
  await near.sql(
    `${insert("meanwhile", "moldova")}; UPDATE users SET name = 'of here' WHERE name = 'by HTTP'`,
  );
  await far.sql(
    `${insert("meanwhile", "new-zealand")}; UPDATE users SET name = 'of there' WHERE name = 'by HTTP'`,
  );
  await have(5, "argentina", "new-zealand");
  // Its own endpoint, too.
  await eventually(async () =>
    expect(await far.ask(["GET", "/v1/tables/users/rows?name=eq.of%20there&select=height_cm"])).toEqual({
      status: 200,
      text: '[{"height_cm":172}]',
    }),
  );
  expect(await near.sql("SELECT name FROM users WHERE name LIKE 'of %'")).toBe("of here");
  await far.heal();
  await have(6, ...names);
  await regions.equal();
  // The later one won, and the other one is in the log.
  expect(await near.sql("SELECT name FROM users WHERE name LIKE 'of %'")).toBe("of there");
  expect(await near.sql("SELECT DISTINCT loser_row ->> 'name' FROM coregent.conflict")).toBe("of here");
});

test("while a server is gone its region's endpoint leads elsewhere; the server takes up where it was killed", async () => {
  const moldova = regions.region("moldova");
  await moldova.sql(insert("before", "moldova"));
  await moldova.killServer();
  await eventually(async () => {
    // Sent again it has one effect.
    const once = { "idempotency-key": "during" };
    const answer = await moldova.ask(["POST", "/v1/tables/users/rows"], user("during"), once);
    expect(answer).toMatchObject({ status: 201 });
  });
  await moldova.startServer();
  await have(8, ...names);
  await regions.equal();
});

test("an agent that is stopped ends with 0, and goes on with what came meanwhile when it is started", async () => {
  const argentina = regions.region("argentina");
  expect(await argentina.stopAgent()).toBe(0);
  await regions.region("moldova").sql(insert("after", "moldova"));
  await argentina.sql(insert("without its agent", "argentina"));
  await argentina.startAgent();
  await have(10, ...names);
  await regions.equal();
  expect(await argentina.coregent("status")).toMatch(/^OK /);
});
