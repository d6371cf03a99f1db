import { mkdtemp, rm, writeFile, mkdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { registerCheck } from "../../src/cli/check.ts";
import { registerConfig } from "../../src/cli/config.ts";
import type { CliWorld, RegisterCommand } from "../../src/cli/context.ts";
import { registerInit } from "../../src/cli/init.ts";
import type { TextStream } from "../../src/cli/output.ts";
import { runCli } from "../../src/cli/program.ts";
import { registerUninstall } from "../../src/cli/uninstall.ts";
import { systemClock } from "../../src/clock.ts";
import type { ExitCode } from "../../src/errors.ts";

export interface Ran {
  readonly code: ExitCode;
  readonly stdout: string;
  readonly stderr: string;
}

/** A stream that remembers what was written. */
export const memoryStream = (properties: Partial<TextStream> = {}): TextStream & { text: () => string } => {
  let written = "";
  return {
    ...properties,
    write: (text) => {
      written += text;
      return true;
    },
    text: () => written,
  };
};

const neverCalled = (): never => {
  throw new Error("this test gives no such service");
};

const commands: readonly RegisterCommand[] = [registerCheck, registerUninstall, registerInit, registerConfig];

/** Runs a command line in this process, by default off a terminal and in an empty environment. */
export const run = async (
  argv: readonly string[],
  world: Partial<CliWorld> & {
    readonly terminal?: boolean;
    readonly commands?: readonly RegisterCommand[];
  } = {},
): Promise<Ran> => {
  const isTTY = world.terminal === true;
  const stdout = memoryStream({ isTTY });
  const stderr = memoryStream({ isTTY });
  const services = { initCluster: neverCalled, uninstallCluster: neverCalled, checkCluster: neverCalled };
  const code = await runCli(
    argv,
    {
      stdout,
      stderr,
      env: {},
      cwd: "/nowhere",
      clock: systemClock(),
      random: () => 0.5,
      interrupted: () => new AbortController().signal,
      confirm: null,
      services,
      ...world,
    },
    world.commands ?? commands,
  );
  return { code, stdout: stdout.text(), stderr: stderr.text() };
};

/** A folder with files that goes when the test is over. */
export const folderWith = async (
  files: Readonly<Record<string, string>>,
): Promise<AsyncDisposable & { readonly path: string }> => {
  const path = await mkdtemp(join(tmpdir(), "coregent-cli-"));
  for (const [name, text] of Object.entries(files)) {
    await mkdir(dirname(join(path, name)), { recursive: true });
    await writeFile(join(path, name), text);
  }
  return {
    path,
    [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }),
  };
};
