import { spawn } from "node:child_process";
import { once } from "node:events";
import { cp, mkdtemp, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

const mark = "COREGENT_BENCH_SNAPSHOT";
const root = fileURLToPath(new URL("../..", import.meta.url));

export const inSnapshot = (): boolean => process.env[mark] !== undefined;

/**
 * Runs the bench again from a copy of the sources, so that what is measured stays one state of them though they are
 * worked on meanwhile. @returns its exit code
 */
export const runInSnapshot = async (args: readonly string[]): Promise<number> => {
  const folder = await mkdtemp(join(tmpdir(), "coregent-bench-sources-"));
  try {
    for (const part of ["conflict", "regions", "src", "test/bench", "package.json", "tsconfig.json"]) {
      await cp(join(root, part), join(folder, part), { recursive: true });
    }
    await symlink(join(root, "node_modules"), join(folder, "node_modules"));
    const child = spawn(process.execPath, [join(folder, "test/bench/run.ts"), ...args], {
      stdio: "inherit",
      env: { ...process.env, [mark]: folder },
    });
    // The child hears it as well and ends what it has begun.
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => child.kill(signal));
    const [code] = (await once(child, "exit")) as [number | null];
    return code ?? 2;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};
