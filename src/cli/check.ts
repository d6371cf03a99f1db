import { exitCodes } from "../errors.ts";
import { commandGroups, type RegisterCommand } from "./context.ts";
import { countText, findingsText, worstSeverity } from "./findings.ts";

/** `coregent check`: 0 if nothing stands in the way (warnings may be there), 3 if something critical does. */
export const registerCheck: RegisterCommand = (program, context) => {
  program
    .command("check")
    .helpGroup(commandGroups.setUp)
    .description("name what is missing or in the way in each region, with the remedy; changes nothing")
    .addHelpText("after", "\nEnds with 3 if something critical was found, else with 0.")
    .action(async () => {
      const { output } = context;
      const topology = await context.loadTopology();
      const findings = await context.services.checkCluster(topology, {
        signal: context.interrupted(),
        onProgress: output.progress,
      });
      const verdict = worstSeverity(findings);
      output.result({ verdict, findings }, () => {
        const count = countText(findings);
        const verdictLine = verdict === "critical" ? "not ready" : "ready";
        return `${verdictLine}${count === "" ? "" : ` (${count})`}\n\n${findingsText(findings, output.color)}`;
      });
      context.exitCode = verdict === "critical" ? exitCodes.degraded : exitCodes.ok;
    });
};
