import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import process from "node:process";

/** Operating-system processes: what Node does not tell. Linux by /proc, others by `ps`. */

const linux = process.platform === "linux";

const ps = (pid: number, format: string): string | null => {
  try {
    return execFileSync("ps", ["-o", `${format}=`, "-p", String(pid)], { encoding: "utf8" }).trim() || null;
  } catch {
    return null;
  }
};

const readProc = (pid: number, file: string): string | null => {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "utf8");
  } catch {
    return null;
  }
};

/** The fields of /proc/<pid>/stat that follow the name (which may hold blanks): state, ppid, ... */
const statFields = (pid: number): string[] | null => {
  const text = readProc(pid, "stat");
  return text === null ? null : text.slice(text.lastIndexOf(")") + 2).split(" ");
};

/**
 * A text that differs between two processes that get one pid at different times; null when no process has the pid
 * (a zombie counts as none).
 */
export const processStart = (pid: number): string | null => {
  if (!linux) return ps(pid, "lstart");
  const fields = statFields(pid);
  if (fields === null || fields[0] === "Z" || fields[0] === "X") return null;
  return fields[19] ?? null;
};

export const isAlive = (pid: number): boolean => processStart(pid) !== null;

export const commandLine = (pid: number): string | null =>
  linux ? (readProc(pid, "cmdline")?.replaceAll("\0", " ").trim() ?? null) : ps(pid, "command");

export const childrenOf = (pid: number): number[] => {
  if (!linux) {
    const rows = execFileSync("ps", ["-axo", "pid=,ppid="], { encoding: "utf8" }).trim().split("\n");
    return rows
      .map((row) => row.trim().split(/\s+/).map(Number))
      .flatMap(([child, parent]) => (parent === pid && child !== undefined ? [child] : []));
  }
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((child) => statFields(child)?.[1] === String(pid));
};

/** Whether some process works in this folder, as all of a server do in their data folder. Elsewhere than Linux: false. */
export const isWorkedIn = (folder: string): boolean =>
  linux &&
  readdirSync("/proc").some((name) => {
    if (!/^\d+$/.test(name)) return false;
    try {
      return readlinkSync(`/proc/${name}/cwd`) === folder;
    } catch {
      return false;
    }
  });

/** False when there is no such process any more. */
export const signal = (pid: number, name: NodeJS.Signals): boolean => {
  try {
    return process.kill(pid, name);
  } catch {
    return false;
  }
};

/**
 * SIGKILLs a process and its children as one. It is stopped first, so that it can neither start another child nor
 * notice the death of one.
 */
export const killTree = (pid: number): number[] => {
  if (!signal(pid, "SIGSTOP")) return [];
  const pids = [...childrenOf(pid), pid];
  for (const each of pids) signal(each, "SIGKILL");
  return pids;
};

/** @returns false when the deadline came first */
export const waitUntil = async (condition: () => boolean, timeoutMs: number): Promise<boolean> => {
  const deadline = performance.now() + timeoutMs;
  while (!condition()) {
    if (performance.now() > deadline) return false;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return true;
};

/** `read` fails when the owner is gone: then signal the pid and, when it has ended, remove the folders. */
const guardScript = `
if read -r _; then exit 0; fi
pid=$1; signal=$2; shift 2
kill "-$signal" "$pid" 2>/dev/null
i=0
while kill -0 "$pid" 2>/dev/null && [ "$i" -lt 100 ]; do sleep 0.1; i=$((i + 1)); done
kill -KILL "$pid" 2>/dev/null
if [ "$#" -gt 0 ]; then rm -rf -- "$@"; fi
`;

export interface Guard {
  /** The process has ended, or is to stay: it is no longer ended with us. */
  release(): void;
}

/**
 * Ends a process when we end, however that comes about (exit, signal, crash, SIGKILL): a shell waits on a pipe
 * whose other end only we hold. It needs no handlers of ours for signals, which belong to the application.
 */
export const endWithUs = (
  pid: number,
  options: { readonly signal: "QUIT" | "TERM" | "KILL"; readonly remove?: readonly string[] },
): Guard => {
  const shell: ChildProcess = spawn(
    "/bin/sh",
    ["-c", guardScript, "coregent-guard", String(pid), options.signal, ...(options.remove ?? [])],
    { detached: true, stdio: ["pipe", "ignore", "ignore"], cwd: "/" },
  );
  shell.on("error", () => undefined);
  shell.stdin?.on("error", () => undefined);
  shell.unref();
  (shell.stdin as unknown as { unref?: () => void } | null)?.unref?.();
  let released = false;
  return {
    release: () => {
      if (released) return;
      released = true;
      shell.stdin?.end("done\n");
    },
  };
};
