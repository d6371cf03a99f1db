import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Topology } from "../../regions/topology.ts";
import { regionNamed, topologyOf } from "../config.ts";
import { OperatorError } from "../errors.ts";
import { connect } from "../postgres/client.ts";
import { clockOffset, clockOffsetSetting } from "../postgres/clock-offset.ts";
import { waitFor } from "./watching.ts";

/** In a server's own configuration. A new start of the demo takes it away. */
export const trueClockSql = [
  ...Object.keys(clockOffset(0)).map((setting) => `ALTER SYSTEM RESET "${setting}"`),
  "SELECT pg_reload_conf()",
] as const;

const skewedClockSql = (micros: string): readonly string[] => [
  ...Object.entries(clockOffset(micros)).map(
    ([setting, value]) => `ALTER SYSTEM SET "${setting}" = '${value}'`,
  ),
  "SELECT pg_reload_conf()",
];

export interface Skew {
  readonly region: string;
  /** How far the clock that stamps this region's writes is ahead of the true one; negative: behind. */
  readonly ms: number;
}

const takenUpMs = 10_000;

/**
 * Moves the clock of a region of the demo that runs in this folder, in open sessions too.
 * @throws OperatorError CG-DEMO-FOLDER, CG-REGION-UNKNOWN; what connecting throws
 */
export const skewClock = async (folder: string, { region, ms }: Skew, signal: AbortSignal): Promise<void> => {
  const { postgres } = regionNamed(await topologyOfDemo(folder), region);
  const client = await connect(postgres.reveal(), { applicationName: "coregent demo skew", signal });
  try {
    const offset = String(Math.round(ms * 1000));
    for (const statement of ms === 0 ? trueClockSql : skewedClockSql(offset)) await client.query(statement);
    const isTakenUp = async (): Promise<boolean> => {
      const { rows } = await client.query<{ now: string | null }>(
        "SELECT nullif(current_setting($1, true), '') AS now",
        [clockOffsetSetting],
      );
      return (rows[0]?.now ?? "0") === offset;
    };
    if (!(await waitFor(isTakenUp, { timeoutMs: takenUpMs, everyMs: 20, signal }))) {
      throw new Error(`the server of ${region} did not take the setting up in ${takenUpMs} ms`);
    }
  } finally {
    await client.end();
  }
};

/** Only of a demo: elsewhere the setting would do harm that nobody asked for. */
const topologyOfDemo = async (folder: string): Promise<Topology> => {
  const file = join(folder, "coregent.yaml");
  try {
    await readFile(join(folder, "demo.json"));
    return topologyOf(await readFile(file, "utf8"), { file, env: {} });
  } catch (error) {
    if (error instanceof OperatorError) throw error;
    throw new OperatorError("CG-DEMO-FOLDER", `there is no demo in ${folder}`, {
      remedy: "Start one with coregent demo, or name its folder with --data DIR.",
      cause: error,
    });
  }
};
