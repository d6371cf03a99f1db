import type { OperatorError } from "../errors.ts";
import { printable, toJson, type Colors } from "./output.ts";

/** An error for people: what happened, each place in a file on a line of its own, what to do. */
export const errorText = (error: OperatorError, color: Colors, debug: boolean): string => {
  const lines = [`${color.red("error")} ${printable(error.message)} ${color.dim(`[${error.code}]`)}`];
  for (const { file, line, column, message } of error.problems) {
    lines.push(`  ${color.bold(`${printable(file)}:${line}:${column}:`)} ${printable(message)}`);
  }
  lines.push(`${color.cyan("remedy")} ${printable(error.remedy)}`);
  if (debug) {
    lines.push(color.dim(stackOf(error)));
  }
  return lines.join("\n");
};

/** The same for programs: one line of JSON. */
export const errorJson = (error: OperatorError, debug: boolean): string => {
  const { code, message, remedy, problems } = error;
  return toJson({
    error: {
      code,
      message,
      remedy,
      ...(problems.length > 0 && { problems }),
      ...(debug && { stack: stackOf(error) }),
    },
  });
};

/** Stacks only: other properties of an error may hold a URL with its password. */
const stackOf = (error: unknown): string => {
  if (!(error instanceof Error)) {
    return "";
  }
  const own = printable(error.stack ?? error.message);
  return error.cause === undefined ? own : `${own}\ncaused by ${stackOf(error.cause)}`;
};
