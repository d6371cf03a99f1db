import { CommanderError } from "commander";
import { OperatorError } from "../errors.ts";
import { NoTls } from "../postgres/tls.ts";

const unreachable = new Set([
  "ECONNREFUSED",
  "ECONNRESET",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EPIPE",
  "ETIMEDOUT",
]);

/** Every error as one that an operator can act on. What is not known becomes CG-INTERNAL with itself as its cause. */
export const explainError = (error: unknown): OperatorError => {
  if (error instanceof OperatorError) {
    return error;
  }
  if (error instanceof CommanderError) {
    return usageError(error);
  }
  if (error instanceof NoTls) {
    return new OperatorError("CG-NO-TLS", error.message, {
      remedy: "Switch TLS on in the server (ssl = on), or add ?sslmode=disable to the region's postgres URL.",
      cause: error,
    });
  }
  const { code, message } = describe(error);
  if (code !== undefined && (unreachable.has(code) || /^08|^57P0[123]$/.test(code))) {
    return new OperatorError("CG-UNREACHABLE", message, {
      remedy: "See that the server runs and that this machine may reach it, then run the command again.",
      cause: error,
    });
  }
  if (code !== undefined && /^28|^3D000$/.test(code)) {
    return new OperatorError("CG-LOGIN-REFUSED", message, {
      remedy:
        "Correct the region's postgres URL in the configuration, or the variable its password comes from.",
      cause: error,
    });
  }
  return new OperatorError("CG-INTERNAL", message, {
    remedy: "Run the command again with --debug to see where it happened, and report it.",
    cause: error,
  });
};

/** Commander's messages begin with "error: ", and suggest in a second line. */
const usageError = (error: CommanderError): OperatorError => {
  const [first = "", ...rest] = error.message.replace(/^error: /, "").split("\n");
  const suggestion = /Did you mean (.+)\?/.exec(rest.join(" "))?.[1];
  const help = "`coregent --help` lists the commands, `coregent COMMAND --help` the options of one.";
  return new OperatorError("CG-USAGE", first, {
    remedy: suggestion === undefined ? help : `Did you mean ${suggestion}? ${help}`,
    cause: error,
  });
};

const describe = (error: unknown): { code: string | undefined; message: string } => {
  // A host with several addresses fails with one error for each, and an empty message for all.
  if (error instanceof AggregateError && error.errors.length > 0 && error.message === "") {
    return describe(error.errors[0]);
  }
  if (!(error instanceof Error)) {
    return { code: undefined, message: typeof error === "string" ? error : "an unknown error" };
  }
  const code = (error as { code?: unknown }).code;
  return {
    code: typeof code === "string" ? code : undefined,
    message: error.message === "" ? error.name : error.message,
  };
};
