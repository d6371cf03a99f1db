import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { cp, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const mark = "COREGENT_BENCH_SNAPSHOT";
const root = fileURLToPath(new URL("../..", import.meta.url));

const compiled = ["conflict", "regions", "src", "test/bench"];

/** Types are not looked at: that is what the lint is for. */
const compile = async (folder: string): Promise<void> => {
  const config = join(folder, "tsconfig.bench.json");
  const options = { noEmit: false, noCheck: true, rootDir: ".", outDir: "dist" };
  await writeFile(
    config,
    JSON.stringify({ extends: "./tsconfig.json", compilerOptions: options, include: compiled }),
  );
  await promisify(execFile)(process.execPath, [
    join(folder, "node_modules/typescript/bin/tsc"),
    "-p",
    config,
  ]);
};

export const inSnapshot = (): boolean => process.env[mark] !== undefined;

/**
 * Runs the bench again from a compiled copy of the sources, so that what is measured stays one state of them though they
 * are worked on meanwhile, and is what users run. @returns its exit code
 */
export const runInSnapshot = async (args: readonly string[]): Promise<number> => {
  const folder = await mkdtemp(join(tmpdir(), "coregent-bench-sources-"));
  try {
    for (const part of [...compiled, "package.json", "tsconfig.json"]) {
      await cp(join(root, part), join(folder, part), { recursive: true });
    }
    await symlink(join(root, "node_modules"), join(folder, "node_modules"));
    await compile(folder);
    const child = spawn(process.execPath, [join(folder, "dist/test/bench/run.js"), ...args], {
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
