import { randomBytes } from "node:crypto";
import { mkdir, readdir, readFile, rm, rmdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { removeDataFolder } from "../embedded/data-folder.ts";
import { processStart } from "../embedded/processes.ts";
import { OperatorError } from "../errors.ts";
import { agentsOf, endAll, type ProcessRecord } from "./leftovers.ts";
import { lockFolder, type FolderLock } from "./lock.ts";

/**
 * The demo's data folder. One process works in it at a time: the one that a file `demo.lock.*` names, as long as it lives.
 *
 *     coregent.yaml            the cluster, for every command run beside it
 *     demo.json                seed and ports, kept over restarts; it marks the folder as a demo's
 *     admin-token              for `coregent outage`; the configuration holds its hash
 *     demo.lock.*              who works here
 *     processes.json           servers and agents that were started, so that none is left behind
 *     agents/<region>.yaml     what the agents use: the peers' databases through the simulated network
 *     data/<region>/           PostgreSQL's data
 *     logs/
 */
export class DemoFolder implements AsyncDisposable {
  readonly path: string;
  readonly #lock: FolderLock;

  private constructor(path: string, lock: FolderLock) {
    this.path = path;
    this.#lock = lock;
  }

  /**
   * Makes the folder if need be and locks it; stops what a demo that was killed left running here.
   * @throws OperatorError CG-DEMO-RUNNING, CG-DEMO-FOLDER
   */
  static async open(path: string): Promise<DemoFolder> {
    await refuseForeign(path);
    await mkdir(path, { recursive: true });
    const lock = await lockFolder(path);
    if ("heldBy" in lock) {
      throw new OperatorError("CG-DEMO-RUNNING", `a demo runs in ${path} already (process ${lock.heldBy})`, {
        remedy: "Stop it with Ctrl-C, or start this one in a folder of its own with --data DIR.",
      });
    }
    const folder = new DemoFolder(path, lock);
    try {
      for (const name of ["agents", "data", "logs"]) {
        await mkdir(folder.file(name), { recursive: true });
      }
      await folder.#stopLeftovers();
    } catch (error) {
      await folder[Symbol.asyncDispose]();
      throw error;
    }
    return folder;
  }

  file(...parts: readonly string[]): string {
    return join(this.path, ...parts);
  }

  get configFile(): string {
    return this.file("coregent.yaml");
  }

  dataDir(region: string): string {
    return this.file("data", region);
  }

  get adminTokenFile(): string {
    return this.file("admin-token");
  }

  /** Made when it is first asked for, and kept. */
  async adminToken(): Promise<string> {
    const kept = (await readFile(this.adminTokenFile, "utf8").catch(() => "")).trim();
    if (kept !== "") {
      return kept;
    }
    const token = `cg_${randomBytes(32).toString("base64url")}`;
    await writeFile(this.adminTokenFile, `${token}\n`, { mode: 0o600 });
    return token;
  }

  async readSettings(): Promise<DemoSettings | null> {
    return readJson<DemoSettings>(this.file("demo.json"));
  }

  async writeSettings(settings: DemoSettings): Promise<void> {
    await writeFile(this.file("demo.json"), `${JSON.stringify(settings, null, 2)}\n`);
  }

  /** To be called whenever one was started. */
  async recordProcesses(pids: readonly number[]): Promise<void> {
    const records = pids.map((pid): ProcessRecord => ({ pid, start: processStart(pid) }));
    await writeFile(this.file("processes.json"), JSON.stringify(records));
  }

  /** Removes all that a demo made, and the folder if nothing else is in it. */
  async purge(): Promise<void> {
    for (const region of await readdir(this.file("data"))) {
      if (!region.endsWith(".log")) {
        await removeDataFolder(this.dataDir(region));
      }
    }
    for (const name of [
      "agents",
      "data",
      "logs",
      "processes.json",
      "coregent.yaml",
      "admin-token",
      "demo.json",
    ]) {
      await rm(this.file(name), { recursive: true, force: true });
    }
    await this.#lock.release();
    await rmdir(this.path).catch(() => undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lock.release();
  }

  async #stopLeftovers(): Promise<void> {
    const records = (await readJson<ProcessRecord[]>(this.file("processes.json"))) ?? [];
    await endAll([...records, ...agentsOf(this.file("agents"))]);
  }
}

export interface DemoSettings {
  readonly seed: number;
  /** By region. */
  readonly ports: Readonly<Record<string, RegionPorts>>;
}

export interface RegionPorts {
  readonly postgres: number;
  readonly api: number;
  /** For PostgreSQL clients. */
  readonly entrance: number;
}

const readJson = async <T>(file: string): Promise<T | null> => {
  const text = await readFile(file, "utf8").catch(() => null);
  try {
    return text === null ? null : (JSON.parse(text) as T);
  } catch {
    // Cut short by a crash while it was written: as good as none.
    return null;
  }
};

/** A folder with somebody's own coregent.yaml, or with anything but a demo in it, is not ours to write in. */
const refuseForeign = async (path: string): Promise<void> => {
  const names = await readdir(path).catch((error: NodeJS.ErrnoException): string[] => {
    if (error.code === "ENOENT") {
      return [];
    }
    throw new OperatorError("CG-DEMO-FOLDER", `${path} cannot be used as the demo's folder (${error.code})`, {
      remedy: "Name another one with --data DIR.",
      cause: error,
    });
  });
  // Without demo.json it may be one that was killed before it wrote that.
  const foreign = names.find((name) => !/^(demo\.lock\..*|processes\.json|agents|data|logs)$/.test(name));
  if (foreign !== undefined && !names.includes("demo.json")) {
    throw new OperatorError("CG-DEMO-FOLDER", `${path} holds other things than a demo (${foreign})`, {
      remedy: "Name an empty or a new folder with --data DIR.",
    });
  }
};
