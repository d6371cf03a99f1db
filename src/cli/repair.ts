import { regionNamed } from "../config.ts";
import { repairCluster, type RepairReport } from "../replication/repair.ts";
import { commandGroups, type RegisterCommand } from "./context.ts";
import { printable, type Colors } from "./output.ts";
import { renderTable } from "./table.ts";
import { collect, exitCodeOf, explainUnknownTable, nonNegative } from "./verify.ts";
import { verifyText } from "./verify-text.ts";

interface RepairFlags {
  table?: string[];
  from?: string;
  wait: number;
  limit: number;
}

/** `coregent repair`: ends as verify does, with what is true afterwards. */
export const registerRepair: RegisterCommand = (program, context) => {
  program
    .command("repair")
    .helpGroup(commandGroups.prove)
    .description("merge what differs between the regions, then verify")
    .option("-t, --table <schema.table>", "this table only; may be repeated", collect)
    .option(
      "--from <region>",
      "of rows of one version and different content, this region's is right: it is stamped anew there",
    )
    .option("--wait <seconds>", "how long changes that are on their way are waited for", nonNegative, 10)
    .option("--limit <n>", "differing keys shown of each table afterwards", nonNegative, 20)
    .addHelpText(
      "after",
      "\nOnly ever merges: of each key the highest state goes to the regions that lack it, as if it had just been\n" +
        "streamed. Agents and applications may go on meanwhile. Ends with the exit code of verify.",
    )
    .action(async (flags: RepairFlags) => {
      const { output } = context;
      const topology = await context.loadTopology();
      const report = await repairCluster(topology, {
        ...(flags.table === undefined ? {} : { tables: flags.table }),
        ...(flags.from === undefined ? {} : { from: regionNamed(topology, flags.from).name }),
        waitMs: flags.wait * 1000,
        limit: Math.floor(flags.limit),
        signal: context.interrupted(),
        onProgress: output.progress,
        clock: context.clock,
      }).catch((error: unknown) => {
        throw explainUnknownTable(error);
      });
      output.result(report, () =>
        [repairText(report, output.color), verifyText(report.after, topology, output.color)].join("\n\n"),
      );
      context.exitCode = exitCodeOf(report.after.verdict);
    });
};

const repairText = (report: RepairReport, color: Colors): string => {
  const changed = report.merged.filter((one) => one.rows + one.tombstones > 0);
  const lines: string[] = [];
  if (changed.length === 0 && report.restamped === 0) lines.push("nothing was merged");
  if (report.restamped > 0) lines.push(`${report.restamped} rows stamped anew`);
  if (changed.length > 0) {
    const rows = changed.map((one) => [one.table, one.region, String(one.rows), String(one.tombstones)]);
    lines.push(
      renderTable({ head: ["MERGED", "INTO", "ROWS", "TOMBSTONES"], rows, alignRight: [2, 3] }, color),
    );
  }
  lines.push(...report.skipped.map((reason) => `${color.yellow("left")} ${printable(reason)}`));
  return lines.join("\n");
};
