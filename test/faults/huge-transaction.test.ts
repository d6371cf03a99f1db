import { readFile } from "node:fs/promises";
import process from "node:process";
import { expect, test } from "vitest";
import { startCluster } from "../../src/testing/index.ts";
import { eventually } from "../support/eventually.ts";

/** `COREGENT_HUGE=1000000` for as many rows as FAULTS 24 names. */
const rows = Number(process.env["COREGENT_HUGE"] ?? 200_000);

test(
  "one huge transaction: whole, in bounded memory, with a status in the middle (FAULTS 24)",
  { timeout: 60_000 + rows / 2 },
  async () => {
    await using cluster = await startCluster({
      regions: 2,
      schema: "CREATE TABLE notes (id int PRIMARY KEY, body text NOT NULL)",
      settings: { wal_sender_timeout: "1s" },
    });
    const [a, b] = [cluster.region("a"), cluster.region("b")];
    const walsenders = (): Promise<Record<string, unknown>[]> =>
      a.sql("SELECT active_pid AS pid FROM pg_replication_slots WHERE slot_name = 'coregent_test_1_2'");
    await eventually(async () => expect((await walsenders())[0]?.["pid"]).not.toBeNull());
    const before = await walsenders();
    await a.sql(`INSERT INTO notes SELECT i, repeat(md5(i::text), 10) FROM generate_series(1, ${rows}) i`);
    const seen = new Set<number>();
    await eventually(
      async () => {
        const [row] = await b.sql<{ n: number }>("SELECT count(*)::int AS n FROM notes");
        seen.add(row?.n ?? -1);
        return row?.n === rows;
      },
      { timeoutMs: 30_000 + rows / 4, what: "the transaction at b" },
    );
    // Never in part.
    expect([...seen].filter((n) => n !== 0 && n !== rows)).toEqual([]);
    // The same stream all along: the source has not given it up, though it took far longer than its timeout.
    expect(await walsenders()).toEqual(before);
    const status = await readFile(`/proc/${b.agent.pid}/status`, "utf8");
    const peakMb = Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) / 1024;
    expect(peakMb).toBeGreaterThan(20);
    expect(peakMb).toBeLessThan(400);
    await cluster.converged();
  },
);
