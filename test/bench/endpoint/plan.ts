import { extname } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { runProgram } from "../../../src/testing/program.ts";

/** What a program that makes load is to do. Rows are numbered; see rows.ts. */
export interface LoadPlan {
  readonly port: number;
  /** Of a PostgreSQL server. */
  readonly database: string;
  readonly connections: number;
  readonly work: Work;
  /** The first row, */
  readonly from: number;
  /** so many that nobody measures, */
  readonly warmUp: number;
  /** and so many that count. */
  readonly count: number;
  /** Evenly, whether or not earlier ones are answered; null: each connection as fast as it is answered. */
  readonly perSecond: number | null;
}

/** `insert`: the row as it was stored comes back; `insertMinimal`: nothing does. `read`: by key. `page`: many rows, by pg only. */
export type Work = "insert" | "insertMinimal" | "read" | "page";

export const pageRows = 5_000;

export interface LoadReport {
  readonly seconds: number;
  /** From the moment when it was due (evenly) or sent, to the answer. */
  readonly p50Ms: number;
  readonly p99Ms: number;
  /** Of the program, over what counts. */
  readonly cpuSeconds: number;
  /** Answers that are not what they should be. */
  readonly failures: readonly string[];
}

export type LoadProgram = "http-load" | "pg-load";

/** Runs the program as a process of its own. @throws with what it said when it fails */
export const runLoad = async (program: LoadProgram, plan: LoadPlan): Promise<LoadReport> => {
  // Beside this file: as source, or compiled.
  const file = fileURLToPath(new URL(`${program}${extname(import.meta.url)}`, import.meta.url));
  const { code, stdout, stderr } = await runProgram(
    {
      file: process.execPath,
      args: [file, JSON.stringify(plan)],
      env: { ...process.env, NODE_NO_WARNINGS: "1" },
    },
    { timeoutMs: 300_000 },
  );
  if (code !== 0) throw new Error(`${program} ended with ${code}: ${stderr.slice(-2_000)}`);
  return JSON.parse(stdout) as LoadReport;
};
