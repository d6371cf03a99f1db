import pino, { type Logger } from "pino";
import pretty from "pino-pretty";

export interface LogStream {
  write(text: string): unknown;
  readonly isTTY?: boolean | undefined;
}

/** JSON lines, or lines for people on a terminal. URLs with secrets are never handed to a logger. */
export const createLogger = (stream: LogStream, options: { level: string; color: boolean }): Logger => {
  const settings = { level: options.level, base: null, timestamp: pino.stdTimeFunctions.isoTime };
  return stream.isTTY === true
    ? pino(
        settings,
        pretty({ colorize: options.color, destination: stream as NodeJS.WritableStream, sync: true }),
      )
    : pino(settings, { write: (line) => void stream.write(line) });
};
