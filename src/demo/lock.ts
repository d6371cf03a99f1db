import { randomUUID } from "node:crypto";
import { readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { processStart } from "../embedded/processes.ts";

/**
 * One process at a time in a folder, without a lock of the operating system, which Node does not give.
 *
 * Each contender makes a file of its own that names its process, and then looks who else is there. Whoever sees
 * nobody alive holds the folder: everyone who comes later sees its file. Two that see each other both withdraw and try
 * again a little later. Files of processes that are gone do not count; they are told from later processes of the
 * same pid by their start.
 */
export interface FolderLock {
  release(): Promise<void>;
}

const prefix = "demo.lock.";

interface Contender {
  readonly file: string;
  readonly pid: number;
  readonly start: string;
}

/** @returns the lock, or the pid of the process that has it */
export const lockFolder = async (folder: string): Promise<FolderLock | { readonly heldBy: number }> => {
  const start = processStart(process.pid) ?? "";
  const name = `${prefix}${process.pid}.${encodeURIComponent(start)}.${randomUUID()}`;
  const mine = join(folder, name);
  for (;;) {
    await writeFile(mine, "");
    const others = (await contenders(folder)).filter(({ file }) => file !== name);
    if (others.length === 0) {
      await writeFile(mine, "held");
      return { release: () => rm(mine, { force: true }) };
    }
    await rm(mine, { force: true });
    for (const { file, pid } of others) {
      if ((await readFile(join(folder, file), "utf8").catch(() => "")) === "held") {
        return { heldBy: pid };
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 5 + 45 * Math.random()));
  }
};

/** The living ones; files of the dead are removed. */
const contenders = async (folder: string): Promise<Contender[]> => {
  const found: Contender[] = [];
  for (const file of await readdir(folder)) {
    const [, pid, start] = /^demo\.lock\.(\d+)\.([^.]*)\./.exec(file) ?? [];
    if (pid === undefined || start === undefined) {
      continue;
    }
    if (processStart(Number(pid)) === decodeURIComponent(start)) {
      found.push({ file, pid: Number(pid), start });
    } else {
      await rm(join(folder, file), { force: true });
    }
  }
  return found;
};
