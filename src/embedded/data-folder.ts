import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmod,
  chown,
  lstat,
  mkdir,
  readFile,
  readlink,
  rename,
  rm,
  rmdir,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import process from "node:process";
import { promisify } from "node:util";
import { cacheFolder, copyTree, makeOnce, type Binaries, type PostgresVersion } from "./binaries.ts";
import { processStart } from "./processes.ts";
import { canWrite, type ServerUser } from "./server-user.ts";
import { renewSystemIdentifier } from "./system-identifier.ts";

const run = promisify(execFile);

/** Included at the end of postgresql.conf, written anew whenever settings change. */
const includedFile = "coregent.conf";
const ownerFile = "coregent.owner.json";

const give = async (path: string, user: ServerUser): Promise<void> => {
  if ("uid" in user.ids && user.ids.uid !== undefined) await chown(path, user.ids.uid, user.ids.gid);
};

const initdb = async (binaries: Binaries, folder: string, user: ServerUser): Promise<void> => {
  await mkdir(folder, { mode: 0o700 });
  await give(folder, user);
  const flags = ["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions"];
  try {
    await run(binaries.initdb, ["-D", folder, ...flags, "--no-sync"], {
      ...user.ids,
      cwd: "/",
      env: { PATH: process.env["PATH"] ?? "/usr/bin:/bin", LC_ALL: "C", TZ: "UTC" },
    });
  } catch (error) {
    const { stdout, stderr } = error as { stdout?: string; stderr?: string };
    throw new Error(`initdb failed in ${folder}:\n${stdout ?? ""}${stderr ?? ""}`, { cause: error });
  }
  const path = join(folder, "postgresql.conf");
  await writeFile(path, `${await readFile(path, "utf8")}\ninclude_if_exists = '${includedFile}'\n`);
};

/**
 * A folder's true place. Where the server's user cannot enter the wanted one (a checkout below root's home), the data
 * live in the cache folder and a link in the wanted place leads there.
 */
const reachablePlace = async (wanted: string, user: ServerUser): Promise<string> => {
  await mkdir(dirname(wanted), { recursive: true });
  const link = await readlink(wanted).catch(() => null);
  if (link !== null) return resolve(dirname(wanted), link);
  const made = (await lstat(wanted).catch(() => null)) === null;
  if (made) {
    await mkdir(wanted, { mode: 0o700 });
    await give(wanted, user);
  }
  if (await canWrite(wanted, user)) return wanted;
  if (!made) {
    throw new Error(
      `The user ${user.name}, as whom PostgreSQL runs, cannot write in the data folder ${wanted}`,
    );
  }
  await rm(wanted, { recursive: true });
  const mark = createHash("sha256").update(wanted).digest("hex").slice(0, 12);
  const place = join(await cacheFolder(), `data-${mark}-${basename(wanted)}`);
  // Left by a folder of this name whose link somebody removed.
  await rm(place, { recursive: true, force: true });
  await mkdir(place, { mode: 0o700 });
  await give(place, user);
  await symlink(place, wanted);
  return place;
};

export interface DataFolderOptions {
  readonly dataDir: string;
  readonly version: PostgresVersion;
  readonly binaries: Binaries;
  readonly user: ServerUser;
}

/** Makes the data folder by a copy of a template unless it is there. @returns its true place, absolute */
export const prepareDataFolder = async (options: DataFolderOptions): Promise<string> => {
  const { version, binaries, user } = options;
  const place = await reachablePlace(resolve(options.dataDir), user);
  const found = await readFile(join(place, "PG_VERSION"), "utf8").catch(() => null);
  if (found !== null) {
    if (found.trim() === String(version)) return place;
    throw new Error(`${place} holds data of PostgreSQL ${found.trim()}, not ${version}`);
  }
  const template = join(await cacheFolder(), `template-${binaries.release}-${user.name}-1`);
  await makeOnce(template, (draft) => initdb(binaries, draft, user));
  // Beside it first: a copy that was cut short must not be taken for data.
  const draft = `${place}.draft`;
  await rm(draft, { recursive: true, force: true });
  await copyTree(template, draft);
  await chmod(draft, 0o700);
  await renewSystemIdentifier(draft);
  // Fails, as it should, when the folder holds something that is not ours.
  await rmdir(place);
  await rename(draft, place);
  return place;
};

/** Removes what prepareDataFolder made, wherever it lies. The server must have been stopped. */
export const removeDataFolder = async (dataDir: string): Promise<void> => {
  const link = await readlink(dataDir).catch(() => null);
  if (link !== null) await rm(resolve(dirname(dataDir), link), { recursive: true, force: true });
  await rm(dataDir, { recursive: true, force: true });
};

export const writeSettings = async (
  place: string,
  settings: Readonly<Record<string, string>>,
  user: ServerUser,
): Promise<void> => {
  const lines = Object.entries(settings).map(
    ([name, value]) => `${name} = '${value.replaceAll("'", "''")}'\n`,
  );
  const path = join(place, includedFile);
  await writeFile(path, lines.join(""));
  await give(path, user);
};

/** What the server's own postmaster.pid says. `ready` once it takes connections. */
export const readPidFile = async (place: string): Promise<{ pid: number; ready: boolean } | null> => {
  const text = await readFile(join(place, "postmaster.pid"), "utf8").catch(() => null);
  if (text === null) return null;
  const lines = text.split("\n");
  const pid = Number(lines[0]);
  return Number.isSafeInteger(pid) && pid > 1 ? { pid, ready: lines[7]?.trim() === "ready" } : null;
};

/** The pid of a living process of ours or others that uses this folder, so that two do not fight for it. */
export const claim = async (place: string, user: ServerUser): Promise<void> => {
  const path = join(place, ownerFile);
  const text = await readFile(path, "utf8").catch(() => null);
  if (text !== null) {
    const owner = JSON.parse(text) as { pid: number; start: string | null };
    if (owner.pid !== process.pid && owner.start !== null && processStart(owner.pid) === owner.start) {
      throw new Error(`The data folder ${place} is in use by process ${owner.pid}`);
    }
  }
  await writeFile(path, JSON.stringify({ pid: process.pid, start: processStart(process.pid) }));
  await give(path, user);
};

export const unclaim = (place: string): Promise<void> => rm(join(place, ownerFile), { force: true });

export const folderExists = async (path: string): Promise<boolean> =>
  (await stat(path).catch(() => null)) !== null;
