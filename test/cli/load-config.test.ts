import { chmod, mkdir, rm, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { configLoader, loadConfig, regionNamed, type ConfigSource } from "../../src/config.ts";
import { OperatorError } from "../../src/errors.ts";
import { exampleEnv, exampleYaml } from "../regions/example.ts";
import { folderWith } from "./harness.ts";

/** A configuration that tells by its cluster's name which file it is. */
const named = (cluster: string): string => exampleYaml.replace("weightbook", cluster);

const clusterOf = async (source: ConfigSource): Promise<string> =>
  (await loadConfig({ ...source, env: { ...exampleEnv, ...source.env } })).cluster;

const codeOf = async (promise: Promise<unknown>): Promise<string> => {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(OperatorError);
  return (error as OperatorError).code;
};

describe("the configuration is found", () => {
  const files = {
    "coregent.yaml": named("here"),
    "other.yaml": named("other"),
    "sub/.coregent/coregent.yaml": named("demo"),
    "sub/data/coregent.yaml": named("data"),
    "empty/x": "",
  };

  test.each([
    ["in the working directory", ".", undefined, {}, "here"],
    ["by --config", ".", "other.yaml", {}, "other"],
    [
      "by --config, whatever the environment says",
      ".",
      "other.yaml",
      { COREGENT_CONFIG: "nothing.yaml" },
      "other",
    ],
    ["by COREGENT_CONFIG", "empty", undefined, { COREGENT_CONFIG: "../other.yaml" }, "other"],
    ["by COREGENT_CONFIG before the demo's", "sub", undefined, { COREGENT_CONFIG: "../other.yaml" }, "other"],
    ["where both mean one file", ".", undefined, { COREGENT_CONFIG: "coregent.yaml" }, "here"],
    ["in the demo's folder", "sub", undefined, {}, "demo"],
    ["in the folder that COREGENT_DATA names", "sub", undefined, { COREGENT_DATA: "data" }, "data"],
    [
      "with empty variables as if unset",
      "sub",
      undefined,
      { COREGENT_CONFIG: "", COREGENT_DATA: "" },
      "demo",
    ],
  ])("%s", async (...[, cwd, file, env, cluster]) => {
    await using folder = await folderWith(files);
    expect(await clusterOf({ file, env, cwd: join(folder.path, cwd) })).toBe(cluster);
  });

  test.each([
    ["nothing is there", "empty", undefined, {}, "CG-CONFIG-NOT-FOUND"],
    ["--config names nothing", ".", "nothing.yaml", {}, "CG-CONFIG-NOT-FOUND"],
    [
      "COREGENT_CONFIG names nothing",
      "sub",
      undefined,
      { COREGENT_CONFIG: "no.yaml" },
      "CG-CONFIG-NOT-FOUND",
    ],
    ["two files are meant", ".", undefined, { COREGENT_CONFIG: "other.yaml" }, "CG-CONFIG-AMBIGUOUS"],
    ["--config names a folder", ".", "sub", {}, "CG-CONFIG-UNREADABLE"],
    ["a file is in the way", ".", "coregent.yaml/x", {}, "CG-CONFIG-NOT-FOUND"],
  ])("not when %s", async (...[, cwd, file, env, code]) => {
    await using folder = await folderWith(files);
    expect(await codeOf(clusterOf({ file, env, cwd: join(folder.path, cwd) }))).toBe(code);
  });

  test.skipIf(process.getuid?.() === 0)("not when it may not be read", async () => {
    await using folder = await folderWith(files);
    await chmod(join(folder.path, "coregent.yaml"), 0);
    expect(await codeOf(clusterOf({ env: {}, cwd: folder.path }))).toBe("CG-CONFIG-UNREADABLE");
  });
});

test("a place in a file below the working directory is shown relative, else whole", async () => {
  await using folder = await folderWith({ "sub/coregent.yaml": "cluster: 1\n" });
  await mkdir(join(folder.path, "else"));
  const fileOf = async (cwd: string, file: string): Promise<string | undefined> => {
    const error: unknown = await loadConfig({ env: {}, cwd, file }).catch((reason: unknown) => reason);
    return (error as OperatorError).problems[0]?.file;
  };
  expect(await fileOf(folder.path, "sub/coregent.yaml")).toBe("sub/coregent.yaml");
  const absolute = join(folder.path, "sub/coregent.yaml");
  expect(await fileOf(join(folder.path, "else"), absolute)).toBe(absolute);
});

test("a region is taken by name, or the nearest name is suggested", async () => {
  await using folder = await folderWith({ "coregent.yaml": exampleYaml });
  const topology = await loadConfig({ env: exampleEnv, cwd: folder.path });
  expect(regionNamed(topology, "argentina").id).toBe(2);
  expect(() => regionNamed(topology, "argentine")).toThrow(
    expect.objectContaining({ code: "CG-REGION-UNKNOWN", remedy: 'Did you mean "argentina"?' }),
  );
  expect(() => regionNamed(topology, "mars")).toThrow(
    expect.objectContaining({ remedy: "Its regions are moldova, argentina." }),
  );
});

test("read again and again, what has changed is seen: also at the same size and time, and where it comes and goes", async () => {
  await using folder = await folderWith({ "coregent.yaml": named("first") });
  const cwd = folder.path;
  const file = join(cwd, "coregent.yaml");
  const load = configLoader({ cwd, env: exampleEnv });
  const seen = async (): Promise<string> => (await load()).cluster;
  for (let i = 0; i < 6; i += 1) expect(await seen()).toBe("first");
  const { atime, mtime } = await stat(file);
  await writeFile(file, named("other"));
  await utimes(file, atime, mtime);
  expect(await seen()).toBe("other");
  // Soon after a change, its times are not relied on.
  await writeFile(file, named("third"));
  expect(await seen()).toBe("third");
  await rm(file);
  expect(await codeOf(load())).toBe("CG-CONFIG-NOT-FOUND");
  await writeFile(file, named("fifth"));
  expect(await seen()).toBe("fifth");
});
