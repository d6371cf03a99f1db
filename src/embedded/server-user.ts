import { execFile, execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import process from "node:process";
import { promisify } from "node:util";

const run = promisify(execFile);

/** Under whom servers run. Empty: as ourselves. */
export interface ServerUser {
  readonly name: string;
  /** Passed to spawn; absent when the servers run as we do. */
  readonly ids: { readonly uid: number; readonly gid: number } | Record<string, never>;
}

const idsOf = (name: string): { uid: number; gid: number } | null => {
  try {
    const entry = readFileSync("/etc/passwd", "utf8")
      .split("\n")
      .map((line) => line.split(":"))
      .find(([user]) => user === name);
    if (entry) return { uid: Number(entry[2]), gid: Number(entry[3]) };
    const [uid, gid] = ["-u", "-g"].map((flag) =>
      Number(execFileSync("id", [flag, name], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] })),
    );
    return uid === undefined || gid === undefined ? null : { uid, gid };
  } catch {
    return null;
  }
};

/**
 * PostgreSQL refuses to run as root. No user is made: `postgres` is used where it exists, else `nobody`.
 * (On macOS nobody's ids are negative there and unsigned here; `_postgres` comes first.)
 */
export const serverUser = (): ServerUser => {
  if (process.getuid?.() !== 0) return { name: String(process.getuid?.() ?? "self"), ids: {} };
  for (const name of ["postgres", "_postgres", "nobody"]) {
    const ids = idsOf(name);
    if (ids) return { name, ids };
  }
  throw new Error("PostgreSQL does not run as root, and there is neither a user `postgres` nor `nobody`");
};

/** Whether the user can run this program, its libraries included. */
export const canRun = async (program: string, user: ServerUser): Promise<boolean> => {
  try {
    await run(program, ["--version"], { ...user.ids, cwd: "/" });
    return true;
  } catch {
    return false;
  }
};

/** Whether the user can enter this folder and write in it. */
export const canWrite = async (folder: string, user: ServerUser): Promise<boolean> => {
  try {
    await run("/bin/sh", ["-c", '[ -x "$1" ] && [ -w "$1" ] && cd "$1"', "sh", folder], {
      ...user.ids,
      cwd: "/",
    });
    return true;
  } catch {
    return false;
  }
};
