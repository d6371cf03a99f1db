import { execFile } from "node:child_process";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { startCluster } from "../../src/testing/index.ts";
import { eventually } from "../support/eventually.ts";

const run = promisify(execFile);

/** FAULTS 12. Servers and agents of their own: a server's files are put back. */
test.each([
  ["with its slots, as by a snapshot of its disk", true],
  ["without slots, as by a base backup", false],
])(
  "a region that is restored from an old backup, %s: nothing written after is lost, nothing written before",
  async (_, withSlots) => {
    await using cluster = await startCluster({
      regions: 2,
      schema: "CREATE TABLE notes (id text PRIMARY KEY, body text)",
    });
    const [a, b] = [cluster.region("a"), cluster.region("b")];
    await a.sql("INSERT INTO notes VALUES ('before the backup', '')");
    await cluster.converged();
    await cluster.stopAgent("a");
    await a.server.stop("fast");
    const data = join(cluster.folder, "a.data");
    await run("cp", ["-a", data, `${data}.backup`]);
    await cluster.restart("a");
    await a.sql("INSERT INTO notes SELECT 'lost ' || i, 'x' FROM generate_series(1, 5000) AS i");
    await b.sql("INSERT INTO notes VALUES ('by b', '')");
    await cluster.converged();

    await cluster.stopAgent("a");
    await a.server.stop("fast");
    await rm(data, { recursive: true });
    await run("mv", [`${data}.backup`, data]);
    if (!withSlots) await run("sh", ["-c", `rm -rf "${data}"/pg_replslot/*`]);
    await a.server.start();
    await a.sql("INSERT INTO notes VALUES ('after the restore', '')");
    await eventually(
      async () => (await b.sql("SELECT FROM notes WHERE id = 'after the restore'")).length === 1,
      { timeoutMs: 20_000, what: "the write made after the restore" },
    );
    await cluster.startAgent("a");
    await cluster.converged();
    expect(await a.sql("SELECT count(*)::int AS notes FROM notes")).toEqual([{ notes: 5003 }]);
  },
  90_000,
);
