import { readFile, stat } from "node:fs/promises";
import { join, relative, resolve } from "node:path";
import type { Environment } from "../regions/interpolate.ts";
import { findRegion, parseTopology, type Region, type Topology } from "../regions/topology.ts";
import { suggest } from "../regions/suggest.ts";
import { OperatorError } from "./errors.ts";

export type { Environment } from "../regions/interpolate.ts";

export interface ConfigSource {
  /** From `--config`: this file and no other. */
  readonly file?: string | undefined;
  readonly env: Environment;
  readonly cwd: string;
}

export const configName = "coregent.yaml";
/** Where the demo keeps its data, and its configuration file, unless told otherwise. */
export const defaultDataFolder = ".coregent";

/** An empty variable counts as unset. */
const variable = ({ env }: Pick<ConfigSource, "env">, name: string): string | undefined =>
  env[name] === "" ? undefined : env[name];

/** A file's text; undefined if there is none. */
type ReadIfThere = (file: string) => Promise<string | undefined>;

/** A file is read again though it looks the same: two changes may come within what its times tell apart. */
const surelySame = 3;

/** For files that are read again and again: whether one has changed takes one turn of another thread, to read it four. */
const rereader = (): ReadIfThere => {
  const known = new Map<string, { readonly mark: string; readonly text: string; looks: number }>();
  return async (file) => {
    const mark = await ifThere(file, async () => {
      const { ino, size, mtimeNs, ctimeNs } = await stat(file, { bigint: true });
      return [ino, size, mtimeNs, ctimeNs].join();
    });
    const last = known.get(file);
    if (last !== undefined && last.mark === mark && (last.looks += 1) > surelySame) return last.text;
    const text = mark === undefined ? undefined : await ifThere(file, () => readFile(file, "utf8"));
    if (mark === undefined || text === undefined) known.delete(file);
    else known.set(file, { mark, text, looks: last?.mark === mark ? last.looks : 0 });
    return text;
  };
};

/** What is asked of a file; undefined if there is none. */
const ifThere = async (file: string, ask: () => Promise<string>): Promise<string | undefined> => {
  try {
    return await ask();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || code === "ENOTDIR") {
      return undefined;
    }
    throw new OperatorError("CG-CONFIG-UNREADABLE", `${file} cannot be read (${code ?? "unknown error"})`, {
      remedy: "Let this user read the file, or name another one with --config FILE.",
      cause: error,
    });
  }
};

/**
 * The places where the configuration may be, the first one that exists counts: `--config` alone; else
 * coregent.yaml here, COREGENT_CONFIG, the demo's data folder (COREGENT_DATA, .coregent).
 */
export const configCandidates = ({ file, env, cwd }: ConfigSource): readonly string[] => {
  if (file !== undefined) {
    return [resolve(cwd, file)];
  }
  const named = variable({ env }, "COREGENT_CONFIG");
  const data = variable({ env }, "COREGENT_DATA");
  return [
    resolve(cwd, configName),
    ...(named === undefined ? [] : [resolve(cwd, named)]),
    ...(data === undefined ? [] : [resolve(cwd, data, configName)]),
    join(cwd, defaultDataFolder, configName),
  ];
};

/** Finds the configuration file without reading the topology out of it. */
const findConfig = async (
  source: ConfigSource,
  readIfThere: ReadIfThere,
): Promise<{ file: string; text: string }> => {
  const named = source.file === undefined ? variable(source, "COREGENT_CONFIG") : source.file;
  const candidates = configCandidates(source);
  for (const file of candidates) {
    const text = await readIfThere(file);
    if (text !== undefined) {
      refuseAmbiguous(source, file);
      return { file, text };
    }
    if (named !== undefined && file === resolve(source.cwd, named)) {
      break;
    }
  }
  throw new OperatorError("CG-CONFIG-NOT-FOUND", `no configuration file at ${candidates.join(", ")}`, {
    remedy:
      "Name one with --config FILE or COREGENT_CONFIG, or run the command in the folder that holds coregent.yaml.",
  });
};

/** coregent.yaml here and another file in COREGENT_CONFIG: a guess could change the wrong cluster. */
const refuseAmbiguous = (source: ConfigSource, file: string): void => {
  const named = variable(source, "COREGENT_CONFIG");
  if (source.file === undefined && named !== undefined && resolve(source.cwd, named) !== file) {
    throw new OperatorError("CG-CONFIG-AMBIGUOUS", `${file} is here, and COREGENT_CONFIG names ${named}`, {
      remedy: "Say which is meant with --config FILE, or unset COREGENT_CONFIG.",
    });
  }
};

/**
 * Loads and validates the configuration.
 * @throws OperatorError CG-CONFIG-NOT-FOUND, CG-CONFIG-UNREADABLE, or CG-CONFIG-INVALID with every problem's place.
 */
export const loadConfig = async (source: ConfigSource): Promise<Topology> => configLoader(source)();

/** As loadConfig, again and again: a text that has not changed is not parsed again. */
export const configLoader = (source: ConfigSource): (() => Promise<Topology>) => {
  let last: { readonly file: string; readonly text: string; readonly topology: Topology } | null = null;
  const readIfThere = rereader();
  return async () => {
    const { file, text } = await findConfig(source, readIfThere);
    if (last === null || last.file !== file || last.text !== text) {
      const topology = topologyOf(text, { file: displayed(file, source.cwd), env: source.env });
      last = { file, text, topology };
    }
    return last.topology;
  };
};

/** The topology in a configuration's text. Throws OperatorError CG-CONFIG-INVALID. */
export const topologyOf = (
  text: string,
  { file, env }: { readonly file: string; readonly env: Environment },
): Topology => {
  const parsed = parseTopology(text, env);
  if (parsed.problems === undefined) {
    return parsed.topology;
  }
  const count = parsed.problems.length;
  throw new OperatorError(
    "CG-CONFIG-INVALID",
    `${file} has ${count === 1 ? "a problem" : `${count} problems`}`,
    {
      problems: parsed.problems.map((problem) => ({ file, ...problem })),
      remedy: "Correct the file at the places named. `coregent config` shows what is read from it.",
    },
  );
};

/**
 * The region of that name.
 * @throws OperatorError CG-REGION-UNKNOWN.
 */
export const regionNamed = (topology: Topology, name: string): Region => {
  const region = findRegion(topology, name);
  if (region !== undefined) {
    return region;
  }
  const names = topology.regions.map((other) => other.name);
  const meant = suggest(name, names);
  throw new OperatorError("CG-REGION-UNKNOWN", `the configuration has no region "${name}"`, {
    remedy: meant === undefined ? `Its regions are ${names.join(", ")}.` : `Did you mean "${meant}"?`,
  });
};

/** A path as it is shorter to read: relative if it lies below the working directory. */
const displayed = (file: string, cwd: string): string => {
  const path = relative(cwd, file);
  return path.startsWith("..") || path === "" ? file : path;
};
