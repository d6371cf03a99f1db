import { InvalidArgumentError } from "commander";
import { exitCodes, OperatorError, type ExitCode } from "../errors.ts";
import { UnknownTableError, verifyCluster } from "../replication/verify.ts";
import type { Verdict } from "../replication/verify-report.ts";
import { commandGroups, type RegisterCommand } from "./context.ts";
import { verifyText } from "./verify-text.ts";

interface VerifyFlags {
  table?: string[];
  deep: boolean;
  wait: number;
  limit: number;
}

export const exitCodeOf = (verdict: Verdict): ExitCode => {
  switch (verdict) {
    case "equal":
      return exitCodes.ok;
    case "degraded":
      return exitCodes.degraded;
    case "diverged":
      return exitCodes.diverged;
  }
};

export const nonNegative = (text: string): number => {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value) || value < 0) {
    throw new InvalidArgumentError("It must be a number that is not negative.");
  }
  return value;
};

export const collect = (value: string, before: string[] | undefined): string[] => [...(before ?? []), value];

/** A table that no region replicates is a mistake in the call. */
export const explainUnknownTable = (error: unknown): unknown =>
  error instanceof UnknownTableError
    ? new OperatorError("CG-USAGE", error.message, {
        remedy:
          error.known.length === 0
            ? "No table is replicated yet: run coregent init."
            : `Name one of ${error.known.join(", ")}.`,
        cause: error,
      })
    : error;

/** `coregent verify`: 0 all regions hold the same, 3 degraded, 4 they differ. */
export const registerVerify: RegisterCommand = (program, context) => {
  program
    .command("verify")
    .helpGroup(commandGroups.prove)
    .description("prove that all regions hold the same, or show where they do not; changes nothing")
    .option("-t, --table <schema.table>", "this table only; may be repeated", collect)
    .option("--deep", "compare the content of the rows too, not their versions alone", false)
    .option("--wait <seconds>", "how long changes that are on their way are waited for", nonNegative, 12)
    .option("--limit <n>", "differing keys shown of each table", nonNegative, 20)
    .addHelpText(
      "after",
      "\nEnds with 0 if all regions hold the same, 3 if that could not be proven wholly or something needs\n" +
        "attention (a region is away, rows are quarantined or orphaned, changes are on their way), 4 if they differ.",
    )
    .action(async (flags: VerifyFlags) => {
      const { output } = context;
      const topology = await context.loadTopology();
      const report = await verifyCluster(topology, {
        ...(flags.table === undefined ? {} : { tables: flags.table }),
        deep: flags.deep,
        waitMs: flags.wait * 1000,
        limit: Math.floor(flags.limit),
        signal: context.interrupted(),
        onProgress: output.progress,
        clock: context.clock,
      }).catch((error: unknown) => {
        throw explainUnknownTable(error);
      });
      output.result(report, () => verifyText(report, topology, output.color));
      context.exitCode = exitCodeOf(report.verdict);
    });
};
