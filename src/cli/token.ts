import { createHash, randomBytes } from "node:crypto";
import { Option } from "commander";
import { type Role, roles } from "../../regions/endpoint-settings.ts";
import { commandGroups, type RegisterCommand } from "./context.ts";

/** `coregent token NAME`: makes a token, which is shown once, and what the configuration holds of it. */
export const registerToken: RegisterCommand = (program, context) => {
  program
    .command("token <name>")
    .helpGroup(commandGroups.setUp)
    .description("make a token for the HTTP endpoint, and the line for the configuration")
    .addOption(new Option("--role <role>", "what it may do").choices([...roles]).default("writer"))
    .addHelpText(
      "after",
      "\nNothing is stored: the configuration holds the token's hash, and you keep the token.",
    )
    .action((name: string, { role }: { role: Role }) => {
      const token = `cg_${randomBytes(32).toString("base64url")}`;
      const sha256 = createHash("sha256").update(token).digest("hex");
      context.output.result({ name, role, token, sha256 }, () =>
        [
          "The token, which is not shown again:",
          "",
          `  ${token}`,
          "",
          "For the configuration, under endpoint: tokens:",
          "",
          `  - { name: ${JSON.stringify(name)}, sha256: ${sha256}, role: ${role} }`,
        ].join("\n"),
      );
    });
};
