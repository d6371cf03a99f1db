import { resolve } from "node:path";
import { InvalidArgumentError } from "commander";
import { defaultDataFolder } from "../config.ts";
import { DemoFolder } from "../demo/folder.ts";
import { maxSeed } from "../demo/random.ts";
import { runDemo } from "../demo/run.ts";
import { commandGroups, type RegisterCommand } from "./context.ts";

interface DemoFlags {
  once?: true;
  purge?: true;
  data?: string;
  portBase?: number;
  seed?: number;
}

/** `coregent demo`: three regions on this machine. With --once it ends after the tour, with the exit code of verify. */
export const registerDemo: RegisterCommand = (program, context) => {
  program
    .command("demo")
    .helpGroup(commandGroups.try)
    .description("three regions on this machine, and a tour of what they do; then they keep running")
    .option("--once", "end after the tour, with the exit code of verify")
    .option("--purge", "remove the data of an earlier demo, and end")
    .option("--data <dir>", `where the data are kept (default: COREGENT_DATA, else ${defaultDataFolder})`)
    .option(
      "--port-base <n>",
      "PostgreSQL at n, n+1, n+2, agents at n+10 ...; default: free ports",
      parsePort,
    )
    .option(
      "--seed <n>",
      "seed of the data and the network; default: the last one, else by chance",
      parseSeed,
    )
    .action(async (flags: DemoFlags) => {
      const named = flags.data ?? context.env["COREGENT_DATA"];
      const dataDir = resolve(context.cwd, named === undefined || named === "" ? defaultDataFolder : named);
      if (flags.purge === true) {
        const folder = await DemoFolder.open(dataDir);
        await folder.purge();
        context.output.result({ purged: dataDir }, () => `removed ${dataDir}`);
        return;
      }
      context.exitCode = await runDemo(context, {
        dataDir,
        once: flags.once === true,
        ...(flags.portBase !== undefined && { portBase: flags.portBase }),
        ...(flags.seed !== undefined && { seed: flags.seed }),
      });
    });
};

const wholeNumber = (text: string, low: number, high: number): number => {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < low || value > high) {
    throw new InvalidArgumentError(`It is a whole number from ${low} to ${high}.`);
  }
  return value;
};

const parsePort = (text: string): number => wholeNumber(text, 1024, 65_535 - 12);
const parseSeed = (text: string): number => wholeNumber(text, 0, maxSeed);
