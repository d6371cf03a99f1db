import { OperatorError } from "../errors.ts";
import { commandGroups, type RegisterCommand } from "./context.ts";
import { changesText } from "./region-reports.ts";

/** `coregent uninstall`: asks first where somebody can answer. */
export const registerUninstall: RegisterCommand = (program, context) => {
  program
    .command("uninstall")
    .helpGroup(commandGroups.setUp)
    .description("remove all that init made from every region; the tables and their rows stay")
    .option("-y, --yes", "do not ask")
    .addHelpText(
      "after",
      "\nStop the agents first. Versions, tombstones and the conflict log are lost: changes not yet\n" +
        "replicated stay in the region that made them.",
    )
    .action(async (options: { yes?: boolean }) => {
      const { output } = context;
      const topology = await context.loadTopology();
      const names = topology.regions.map((region) => region.name).join(", ");
      const question = `Remove Coregent from ${names}? Rows stay, the conflict log goes. [y/N] `;
      if (options.yes !== true && context.confirm !== null && !(await context.confirm(question))) {
        throw new OperatorError("CG-INTERRUPTED", "nothing was removed", {
          remedy: "Answer y, or give --yes.",
        });
      }
      const report = await context.services.uninstallCluster(topology, {
        signal: context.interrupted(),
        onProgress: output.progress,
      });
      output.result(report, () => changesText(report.regions, output.color));
    });
};
