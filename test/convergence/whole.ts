import { inScope } from "./tables.ts";

/** Whether transactions are seen whole: all rows of a group are written by each of its transactions, in two tables. */

/** Groups of which a part is there, and not all, in one statement, so in one snapshot. */
export const tornSql = (prefix: string): string => {
  const sums = (table: string): string =>
    `SELECT grp, count(*) AS n, min(round) AS low, max(round) AS high, min(of_a) AS of_a, max(of_b) AS of_b
       FROM ${table} WHERE ${inScope("grp", prefix)} GROUP BY grp`;
  return `
    SELECT grp, format('%s rows of round %s to %s in a (of %s), %s of round %s to %s in b (of %s)',
             a.n, a.low, a.high, a.of_a, b.n, b.low, b.high, b.of_b) AS what
      FROM (${sums("group_a")}) AS a FULL JOIN (${sums("group_b")}) AS b USING (grp)
     WHERE (a.n = a.of_a AND b.n = b.of_b AND a.low = a.high AND b.low = b.high AND a.low = b.low
            AND a.of_a = b.of_a AND a.of_b = b.of_b) IS NOT TRUE`;
};

export interface Torn {
  readonly grp: string;
  readonly what: string;
}

/** Each group is written by one region, which its name tells: `<prefix><region>.<n>`. */
export const writerOf = (grp: string, prefix: string): string => grp.slice(prefix.length).split(".")[0] ?? "";

export interface Group {
  /** Null: the group was deleted, or never made. */
  readonly round: number | null;
}

/** What must be there of a group: the last of these that is known to be written, or one of those after it. */
export class GroupRecord {
  readonly #possible = new Map<string, (number | null)[]>();

  acknowledged(grp: string, round: number | null): void {
    this.#possible.set(grp, [round]);
  }

  unknown(grp: string, round: number | null): void {
    this.#possible.set(grp, [...(this.#possible.get(grp) ?? [null]), round]);
  }

  /** @param held group -> round, of those that are there */
  problems(held: ReadonlyMap<string, number>): string[] {
    const problems: string[] = [];
    for (const [grp, possible] of this.#possible) {
      const round = held.get(grp) ?? null;
      if (!possible.includes(round))
        problems.push(`group ${grp} is at round ${round}, written last was ${possible.join(" or ")}`);
    }
    for (const grp of held.keys()) {
      if (!this.#possible.has(grp)) problems.push(`group ${grp} is there and nobody wrote it`);
    }
    return problems;
  }
}
