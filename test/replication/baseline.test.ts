import { expect, test } from "vitest";
import { eventually } from "../support/eventually.ts";
import { Regions } from "./agents.ts";

test("rows of an old dump with which a region joins overrule nothing that was written before it joined", async () => {
  await using regions = await Regions.create({
    schema: `CREATE TABLE t (id text PRIMARY KEY, n int);
             INSERT INTO t VALUES ('changed', 0), ('deleted', 0), ('untouched', 0)`,
    regions: { a: 18 },
  });
  const a = regions.db("a");
  await a.query("UPDATE t SET n = 1 WHERE id = 'changed'");
  await a.query("DELETE FROM t WHERE id = 'deleted'");
  const b = await regions.add("b");
  await regions.init();
  await regions.agents();

  for (const db of [a, b]) {
    await eventually(async () =>
      expect(await db.query("SELECT id, n FROM t ORDER BY id")).toEqual([
        { id: "changed", n: 1 },
        { id: "untouched", n: 0 },
      ]),
    );
  }
});
