import pc from "picocolors";
import type { Clock } from "../clock.ts";

export type Colors = ReturnType<typeof pc.createColors>;

/** What the frame needs of process.stdout and process.stderr. */
export interface TextStream {
  write(text: string): unknown;
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
}

/**
 * Where a command's words go. Data, and only data, goes to standard output, so that it can be piped; notes, progress
 * and errors go to standard error.
 */
export interface Output {
  /** `--json`: data is JSON, one value a line off a terminal. */
  readonly json: boolean;
  /** Colours for standard output; they do nothing where it is no terminal, or NO_COLOR is set. */
  readonly color: Colors;
  /** Colours for standard error. */
  readonly noteColor: Colors;
  /** Whether standard output is a terminal, on which a view may be redrawn. */
  readonly interactive: boolean;
  /** Columns of standard output; 100 where it is no terminal. */
  readonly columns: number;
  /** A command's result: the value as JSON with --json, else the text for people. */
  readonly result: (value: unknown, text: () => string) => void;
  /** A line of data as it is. */
  readonly line: (text: string) => void;
  /** A line for the person who runs the command, on standard error. */
  readonly note: (text: string) => void;
  readonly warn: (text: string) => void;
  /** Replaces the last progress line on a terminal; elsewhere a line every few seconds. */
  readonly progress: (text: string) => void;
}

/** Why a command is interrupted when the reader of its output has gone (`| head`): no failure, but nothing is left to say. */
export class OutputClosed extends Error {
  override readonly name = "OutputClosed";
}

export interface OutputOptions {
  readonly stdout: TextStream;
  readonly stderr: TextStream;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly clock: Pick<Clock, "monotonic">;
  /** Read at each use: the flags are known only after the command line was parsed. */
  readonly flags: { readonly json: boolean };
}

const progressIntervalMs = 5_000;

/** https://no-color.org: a value that is not empty. */
export const wantsColor = (stream: TextStream, env: OutputOptions["env"]): boolean => {
  const set = (name: string): boolean => env[name] !== undefined && env[name] !== "";
  if (set("NO_COLOR")) {
    return false;
  }
  return set("FORCE_COLOR") ? env["FORCE_COLOR"] !== "0" : stream.isTTY === true && env["TERM"] !== "dumb";
};

/**
 * Text that came from a server or a file, made harmless for a terminal: control characters, which could move the
 * cursor or hide what was printed, are shown as \x1b.
 */
export const printable = (text: string): string =>
  // oxlint-disable-next-line no-control-regex -- control characters are what is looked for
  text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, (character) => {
    const code = character.codePointAt(0) ?? 0;
    return code > 0xff ? `\\u${code.toString(16)}` : `\\x${code.toString(16).padStart(2, "0")}`;
  });

/** JSON with bigints as decimal strings: versions do not fit a JavaScript number. */
export const toJson = (value: unknown, indent?: number): string =>
  JSON.stringify(
    value,
    (_key, item: unknown) => {
      if (typeof item === "bigint") {
        return item.toString();
      }
      return item instanceof Map ? Object.fromEntries(item) : item;
    },
    indent,
  );

export const createOutput = (options: OutputOptions): Output => {
  const { stdout, stderr, env, clock, flags } = options;
  const color = pc.createColors(wantsColor(stdout, env));
  const noteColor = pc.createColors(wantsColor(stderr, env));
  let progressShown = false;
  let progressAt = -Infinity;

  const note = (text: string): void => {
    stderr.write(`${progressShown ? "\r\u001b[K" : ""}${text}\n`);
    progressShown = false;
  };
  const line = (text: string): void => {
    if (progressShown) {
      stderr.write("\r\u001b[K");
      progressShown = false;
    }
    stdout.write(text.endsWith("\n") ? text : `${text}\n`);
  };
  const progress = (text: string): void => {
    if (stderr.isTTY === true && env["TERM"] !== "dumb") {
      // Cut to the width: a line that wraps cannot be taken back by a carriage return.
      stderr.write(`\r\u001b[K${printable(text).slice(0, Math.max(20, (stderr.columns ?? 80) - 1))}`);
      progressShown = true;
    } else if (clock.monotonic() - progressAt >= progressIntervalMs) {
      progressAt = clock.monotonic();
      note(text);
    }
  };

  return {
    get json() {
      return flags.json;
    },
    color,
    noteColor,
    interactive: stdout.isTTY === true && env["TERM"] !== "dumb",
    get columns() {
      return stdout.columns ?? 100;
    },
    result: (value, text) => {
      line(flags.json ? toJson(value, stdout.isTTY === true ? 2 : undefined) : text());
    },
    line,
    note,
    warn: (text) => {
      note(`${noteColor.yellow("warning")} ${text}`);
    },
    progress,
  };
};
