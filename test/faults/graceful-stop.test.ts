import { expect, test } from "vitest";
import { startCluster, type TestCluster } from "../../src/testing/index.ts";
import { eventually } from "../support/eventually.ts";

const rows = (cluster: TestCluster): string => `${cluster.region("a").api}/v1/tables/notes/rows`;

/** Writes one row after the other, until the port is closed. */
class Load {
  readonly acknowledged: string[] = [];
  readonly statuses = new Set<number>();
  /** Requests whose connection broke, instead of being answered or refused. */
  readonly broken: string[] = [];
  readonly ended: Promise<void>;

  constructor(cluster: TestCluster, name: string) {
    this.ended = this.#run(rows(cluster), name);
  }

  async #run(url: string, name: string): Promise<void> {
    const headers = { "content-type": "application/json" };
    for (let n = 0; ; n += 1) {
      const id = `${name}-${n}`;
      try {
        const body = JSON.stringify({ id });
        const response = await fetch(url, { method: "POST", headers, body });
        await response.text();
        this.statuses.add(response.status);
        if (response.ok) this.acknowledged.push(id);
      } catch (error) {
        const { code = "" } = (error as { cause?: { code?: string } }).cause ?? {};
        if (code !== "ECONNREFUSED") this.broken.push(`${id}: ${code}`);
        return;
      }
    }
  }
}

// FAULTS 52
test("an agent that is stopped under load says so, serves on, drains and ends: no acknowledged write is lost", async () => {
  await using cluster = await startCluster({
    regions: 2,
    schema: "CREATE TABLE notes (id text PRIMARY KEY)",
    endpoint: { stopPauseMs: 700 },
  });
  const { api, agent } = cluster.region("a");
  const statusOf = async (path: string): Promise<number> => (await fetch(`${api}${path}`)).status;
  await eventually(async () => (await fetch(rows(cluster))).ok);
  const loads = ["1", "2", "3", "4"].map((name) => new Load(cluster, name));
  const each = (): number[] => loads.map(({ acknowledged }) => acknowledged.length);
  await eventually(() => each().every((count) => count > 20));
  expect([await statusOf("/readyz"), await statusOf("/primary")]).toEqual([200, 200]);

  const stopped = agent.stop();
  await eventually(async () => (await statusOf("/readyz")) === 503, { everyMs: 5 });
  expect([await statusOf("/primary"), await statusOf("/livez")]).toEqual([503, 200]);
  const before = each();
  await eventually(() => each().every((count, i) => count > (before[i] ?? 0) + 5));
  expect(await stopped).toBe(true);
  await Promise.all(loads.map(({ ended }) => ended));
  expect(loads.map(({ statuses }) => [...statuses])).toEqual(loads.map(() => [201]));
  // A request that is sent at the very moment in which an idle connection is closed is not answered; no other breaks.
  expect(
    loads.flatMap(({ broken }) => broken).filter((one) => !/: (UND_ERR_SOCKET|ECONNRESET|EPIPE)$/.test(one)),
  ).toEqual([]);

  await cluster.startAgent("a");
  await cluster.converged();
  const there = new Set(
    (await cluster.region("b").sql<{ id: string }>("SELECT id FROM notes")).map(({ id }) => id),
  );
  expect(loads.flatMap(({ acknowledged }) => acknowledged).filter((id) => !there.has(id))).toEqual([]);
});
