import { exitCodes } from "../errors.ts";
import { commandGroups, type RegisterCommand } from "./context.ts";
import { findingsText, worstSeverity } from "./findings.ts";
import { changesText } from "./region-reports.ts";

/** `coregent init`: 0 when every region is prepared, 1 when something critical is in the way and nothing was changed. */
export const registerInit: RegisterCommand = (program, context) => {
  program
    .command("init")
    .helpGroup(commandGroups.setUp)
    .description("prepare every region: schema, columns, triggers, publications, slots; may be run again")
    .addHelpText(
      "after",
      "\nRun again, it takes up tables that came and releases those that went, while the cluster runs.\n" +
        "If something critical is in the way it changes nothing and ends with 1.",
    )
    .action(async () => {
      const { output } = context;
      const topology = await context.loadTopology();
      const report = await context.services.initCluster(topology, {
        signal: context.interrupted(),
        onProgress: output.progress,
      });
      const refused = worstSeverity(report.findings) === "critical";
      const troubles = report.findings.filter((finding) => finding.severity !== "ok");
      output.result({ refused, ...report }, () =>
        refused ? "nothing was changed" : changesText(report.regions, output.color),
      );
      if (!output.json && troubles.length > 0) {
        output.note(findingsText(troubles, output.noteColor));
      }
      context.exitCode = refused ? exitCodes.error : exitCodes.ok;
    });
};
