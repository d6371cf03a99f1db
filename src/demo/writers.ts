import type { Client } from "pg";
import type { Random } from "./random.ts";

export interface WriteStatistics {
  readonly writes: number;
  readonly failed: number;
  readonly medianMs: number;
  readonly slowestMs: number;
}

/**
 * What people of a region do: weigh themselves, and now and then correct the last entry. One transaction each, one after
 * the other, until the deadline; every one is timed as the application sees it.
 */
export const writeUntil = async (
  client: Client,
  options: {
    readonly region: string;
    readonly random: Random;
    readonly untilMs: number;
    readonly signal: AbortSignal;
  },
): Promise<WriteStatistics> => {
  const { region, random, untilMs, signal } = options;
  const { rows: people } = await client.query<{ id: string }>(
    "SELECT id FROM public.users WHERE home_region = $1 ORDER BY id",
    [region],
  );
  const [first, ...others] = people.map(({ id }) => id);
  if (first === undefined) {
    throw new Error(`nobody lives in ${region}`);
  }
  const times: number[] = [];
  let failed = 0;
  while (performance.now() < untilMs) {
    signal.throwIfAborted();
    const started = performance.now();
    await writeOne(client, random.pick([first, ...others]), random).catch(() => {
      failed += 1;
    });
    times.push(performance.now() - started);
    await new Promise((resolve) => setTimeout(resolve, random.integer(5, 20)));
  }
  times.sort((a, b) => a - b);
  return {
    writes: times.length - failed,
    failed,
    medianMs: times[Math.floor(times.length / 2)] ?? 0,
    slowestMs: times.at(-1) ?? 0,
  };
};

const writeOne = async (client: Client, user: string, random: Random): Promise<void> => {
  if (random.chance(0.8)) {
    await client.query("INSERT INTO public.weigh_ins (user_id, weight_kg) VALUES ($1, $2)", [
      user,
      random.normal(75, 8).toFixed(2),
    ]);
  } else {
    await client.query(
      `UPDATE public.weigh_ins SET weight_kg = weight_kg - 0.1, note = 'corrected'
        WHERE id = (SELECT id FROM public.weigh_ins WHERE user_id = $1 ORDER BY taken_at DESC LIMIT 1)`,
      [user],
    );
  }
};
